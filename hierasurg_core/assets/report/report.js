"use strict";
(() => {
  const root = document.documentElement;

  // Light, dark, or as the system has it. The choice is kept where the browser lets a file keep something.
  const themes = ["auto", "light", "dark"];
  const toggle = document.getElementById("theme");
  const remembered = (() => {
    try { return localStorage.getItem("hierasurg-theme"); } catch { return null; }
  })();
  let theme = themes.includes(remembered) ? remembered : "auto";
  const showTheme = () => {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    toggle.textContent = `Theme: ${theme}`;
  };
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    try { localStorage.setItem("hierasurg-theme", theme); } catch { /* a file may keep nothing here */ }
    showTheme();
  });
  showTheme();

  const wall = document.getElementById("wall");
  const tools = document.querySelector(".tools");
  if (!wall || !tools) return;
  tools.hidden = false;

  // The videos of a card begin together, wait for the longest, and begin again.
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let allowed = !still;
  const groups = new Map();
  class Group {
    constructor(card) {
      this.videos = [...card.querySelectorAll("video")];
      this.name = card.dataset.name;
      this.inView = false;
      this.forced = false;
      this.stopped = false;
      this.over = false;
      this.button = document.createElement("button");
      this.button.type = "button";
      this.button.addEventListener("click", () => this.press());
      if (this.videos.length) card.querySelector("header").append(this.button);
      for (const video of this.videos) {
        video.controls = false;
        video.muted = true;
        video.addEventListener("ended", () => {
          if (this.videos.every((one) => one.ended || one.error) && this.wanted()) this.start();
        });
      }
      card.addEventListener("pointerenter", () => { this.over = true; this.update(); });
      card.addEventListener("pointerleave", () => { this.over = false; this.update(); });
      this.update();
    }
    wanted() { return !this.stopped && ((this.inView && allowed) || this.over || this.forced); }
    start() {
      for (const video of this.videos) {
        video.currentTime = 0;
        video.play().catch(() => {});
      }
    }
    update() {
      const playing = this.wanted();
      for (const video of this.videos) {
        if (!playing) video.pause();
        else if (video.paused && !video.ended) video.play().catch(() => {});
      }
      if (playing && this.videos.every((video) => video.ended)) this.start();
      this.button.textContent = playing ? "Pause" : "Play";
      this.button.setAttribute("aria-label", `${this.button.textContent} sample ${this.name}`);
    }
    press() {
      const playing = this.wanted();
      this.stopped = playing;
      this.forced = !playing;
      this.update();
    }
  }
  const cards = [...wall.children];
  for (const card of cards) groups.set(card, new Group(card));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const group = groups.get(entry.target);
      group.inView = entry.isIntersecting;
      if (!entry.isIntersecting) group.forced = false;
      group.update();
    }
  }, { threshold: 0.35 });
  for (const card of cards) watcher.observe(card);

  const all = document.getElementById("play-all");
  const showAll = () => {
    all.textContent = allowed ? "Pause all" : "Play all";
    all.setAttribute("aria-pressed", String(allowed));
  };
  all.addEventListener("click", () => {
    allowed = !allowed;
    for (const group of groups.values()) {
      group.stopped = false;
      group.forced = false;
      group.update();
    }
    showAll();
  });
  showAll();

  // Worst or best first by a metric; a sample without it comes last.
  const metric = document.getElementById("sort-metric");
  const order = document.getElementById("sort-order");
  const status = document.getElementById("wall-status");
  const values = new Map(cards.map((card) => [card, JSON.parse(card.dataset.values)]));
  const sort = () => {
    const chosen = metric.selectedOptions[0];
    if (!chosen) return;
    const lowerIsBetter = chosen.dataset.better === "lower";
    const sign = lowerIsBetter === (order.value === "best") ? 1 : -1;
    const have = cards.filter((card) => chosen.value in values.get(card));
    const lack = cards.filter((card) => !(chosen.value in values.get(card)));
    have.sort((a, b) => sign * (values.get(a)[chosen.value] - values.get(b)[chosen.value]));
    wall.append(...have, ...lack);
    for (const entry of wall.querySelectorAll(".values > div")) {
      entry.classList.toggle("chosen", entry.dataset.metric === chosen.value);
    }
    status.textContent = `${order.value} first by ${chosen.textContent}`;
  };
  metric.addEventListener("change", sort);
  order.addEventListener("change", sort);
  sort();
})();
