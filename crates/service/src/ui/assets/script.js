// Refreshes what is live, and leads the keyboard to the search box. Without this script every page still works.
(() => {
  "use strict";
  const PAUSE = 5000;

  // "/" goes to the search box, unless somebody is writing.
  document.addEventListener("keydown", (event) => {
    const writes = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "");
    if (event.key !== "/" || writes || event.ctrlKey || event.metaKey || event.altKey) return;
    const box = document.querySelector("form.filter input[type=search], [data-search]");
    if (box) {
      event.preventDefault();
      box.focus();
      box.select();
    }
  });

  const live = document.querySelector("[data-live]");
  if (!live) return;

  const status = document.createElement("p");
  status.className = "live";
  const text = document.createElement("span");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  status.append(text, button);
  live.before(status);

  let paused = false;
  let last = Date.now();
  const say = (failed) => {
    const clock = new Date(last).toLocaleTimeString();
    text.textContent = failed ? `No answer since ${clock}` : paused ? `Paused at ${clock}` : `Live · ${clock}`;
    status.classList.toggle("failed", failed);
    button.textContent = paused ? "Go on" : "Pause";
  };

  // Where the keyboard is, so that it stays there when the content is replaced.
  const place = () => {
    const at = document.activeElement;
    if (!at || !live.contains(at)) return null;
    return [...live.querySelectorAll("a, button")].indexOf(at);
  };

  async function refresh() {
    if (document.hidden || paused) return;
    try {
      const answer = await fetch(live.dataset.live, { redirect: "manual", cache: "no-store" });
      if (answer.type === "opaqueredirect") {
        // The session is over: the page itself leads to the form.
        location.reload();
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (paused) return;
      const at = place();
      live.replaceChildren(...page.body.childNodes);
      if (at !== null) live.querySelectorAll("a, button")[at]?.focus({ preventScroll: true });
      last = Date.now();
      document.documentElement.dataset.refreshed = String(last);
      say(false);
    } catch {
      say(true);
    }
  }

  button.addEventListener("click", () => {
    paused = !paused;
    say(false);
    refresh();
  });
  document.addEventListener("visibilitychange", refresh);
  setInterval(refresh, PAUSE);
  say(false);
})();
