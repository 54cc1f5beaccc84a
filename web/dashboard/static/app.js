// Adds comfort to pages that work without it. No page needs this file.
"use strict";

// Times are shown in the browser's zone unless the person chose one: the server reads this at the next page.
try {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone) document.cookie = "duecourse_zone=" + encodeURIComponent(zone) + "; path=/; max-age=31536000; samesite=lax";
} catch (error) { /* an old browser reads UTC */ }

// Parts that say hx-trigger="tick from:body" refresh themselves, unless nobody looks.
const EVERY_MS = 5000;
setInterval(() => {
  if (!document.hidden && window.htmx) window.htmx.trigger(document.body, "tick");
}, EVERY_MS);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && window.htmx) window.htmx.trigger(document.body, "tick");
});

// A button that was pressed says so, and can't be pressed twice.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  for (const button of event.target.querySelectorAll("button")) {
    setTimeout(() => { button.disabled = true; button.setAttribute("aria-busy", "true"); }, 0);
  }
});
window.addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("button[aria-busy]")) {
    button.disabled = false;
    button.removeAttribute("aria-busy");
  }
});

// A part that can't be refreshed says so, and keeps what it shows.
document.addEventListener("htmx:sendError", () => document.body.classList.add("offline"));
document.addEventListener("htmx:responseError", () => document.body.classList.add("offline"));
document.addEventListener("htmx:afterOnLoad", () => document.body.classList.remove("offline"));

// What a person opened stays open when its part is refreshed.
let wasOpen = [];
document.addEventListener("htmx:beforeSwap", (event) => {
  wasOpen = [...event.target.querySelectorAll("details[open][id]")].map((details) => details.id);
});
document.addEventListener("htmx:afterSwap", () => {
  for (const id of wasOpen) document.getElementById(id)?.setAttribute("open", "");
});
