// Optional: every page works without this file.
"use strict";

// Times are shown in the browser's zone unless the user set one: the server reads this cookie at the next request.
try {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone) document.cookie = "duecourse_zone=" + encodeURIComponent(zone) + "; path=/; max-age=31536000; samesite=lax";
} catch (error) { /* old browsers get UTC */ }

// Elements with hx-trigger="tick from:body" refresh themselves while the page is visible.
const EVERY_MS = 5000;
setInterval(() => {
  if (!document.hidden && window.htmx) window.htmx.trigger(document.body, "tick");
}, EVERY_MS);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && window.htmx) window.htmx.trigger(document.body, "tick");
});

// A submitted form disables its buttons, so that it can't be submitted twice.
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

// If a refresh fails, the page says so and keeps its content.
document.addEventListener("htmx:sendError", () => document.body.classList.add("offline"));
document.addEventListener("htmx:responseError", () => document.body.classList.add("offline"));
document.addEventListener("htmx:afterOnLoad", () => document.body.classList.remove("offline"));

// Details that are open stay open after a refresh.
let wasOpen = [];
document.addEventListener("htmx:beforeSwap", (event) => {
  wasOpen = [...event.target.querySelectorAll("details[open][id]")].map((details) => details.id);
});
document.addEventListener("htmx:afterSwap", () => {
  for (const id of wasOpen) document.getElementById(id)?.setAttribute("open", "");
});
