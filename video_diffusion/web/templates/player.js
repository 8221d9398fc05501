"use strict";

/* Every clip of a [data-player] section follows one clock. Rows near the window are loaded, others let go. */
(() => {
  const LOAD_AHEAD = "60% 0px";
  const LONGEST_WAIT = 1000;  // ms that a common start waits for the slowest clip
  const GATHER_AGAIN = 500;   // ms between common starts because one has fallen behind
  const LONGEST_TICK = 0.1;   // s of clock time for one screen refresh: a sleeping tab does not jump
  const NUDGE = 0.2;          // most that a clip's speed is changed to catch up
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  class Clip {
    constructor(figure) {
      this.figure = figure;
      this.fps = Number(figure.dataset.fps) || 1;
      this.frames = Math.max(1, Number(figure.dataset.frames) || 1);
      this.video = figure.querySelector("video");
      this.cursor = figure.querySelector("[data-cursor]");
      this.isReference = "reference" in figure.dataset;
      this.canvas = null;
      this.corrected = 0;
      this.late = 0;          // frames, positive when behind
      this.inStep = false;    // has been, since it was loaded
      if (this.video) {
        this.video.addEventListener("error", () => {
          if (this.video.hasAttribute("src")) figure.querySelector("[data-unplayable]").hidden = false;
        });
      }
    }
    get last() { return (this.frames - 0.5) / this.fps; }
    get ready() { return this.video && this.video.readyState >= 2 && !this.video.error; }
    frameAt(time) { return Math.min(this.frames - 1, Math.max(0, Math.floor(time * this.fps + 1e-3))); }
    get fellBehind() { return this.inStep && this.late > 0.9; }
    load(time, whenShown) {
      if (!this.video || this.video.hasAttribute("src")) return;
      this.video.preload = "auto";
      this.video.src = this.video.dataset.src;
      this.video.addEventListener("loadeddata", () => { this.seek(time()); whenShown(); }, { once: true });
      this.video.addEventListener("seeked", whenShown);
    }
    unload() {
      if (!this.video || !this.video.hasAttribute("src")) return;
      this.inStep = false;
      this.video.pause();
      this.video.removeAttribute("src");
      this.video.load();
    }
    seek(time) { if (this.video) this.video.currentTime = Math.min(time, this.last); }
    /* Playing, but at a standstill: from here all can go on in the same instant. */
    stand(time) {
      this.seek(time);
      this.late = 0;
      this.video.playbackRate = 0;
      this.video.play().catch(() => {});
    }
    get waits() { return this.video.seeking || (this.video.readyState < 3 && !this.video.error); }
    follow(time, rate, now) {
      if (!this.ready || this.video.seeking) return;
      const target = Math.min(time, this.last);
      if (time >= this.frames / this.fps) { if (!this.video.paused) this.video.pause(); return; }
      if (this.video.paused) this.video.play().catch(() => {});
      const late = target - this.video.currentTime;
      this.late = late * this.fps;
      if (Math.abs(this.late) < 0.5) this.inStep = true;
      if (Math.abs(this.late) > 0.6 && !this.fellBehind && now - this.corrected > 250) {
        this.corrected = now;
        this.video.currentTime = target;
      }
      const wanted = rate * (1 + Math.max(-NUDGE, Math.min(NUDGE, 2 * late)));
      if (Math.abs(this.video.playbackRate - wanted) > 0.01) this.video.playbackRate = wanted;
    }
    mark(time) {
      const shown = this.ready ? this.video.currentTime : Math.min(time, this.last);
      if (this.cursor) this.cursor.style.left = `${100 * (this.frameAt(shown) + 0.5) / this.frames}%`;
    }
    draw(reference, gain, split) {
      if (!this.canvas) {
        this.canvas = document.createElement("canvas");
        this.canvas.className = this.video.className;
        this.canvas.setAttribute("aria-hidden", "true");
        this.video.after(this.canvas);
      }
      this.canvas.hidden = false;
      const { videoWidth: width, videoHeight: height } = this.video;
      if (this.canvas.width !== width) this.canvas.width = width;
      if (this.canvas.height !== height) this.canvas.height = height;
      const pen = this.canvas.getContext("2d");
      pen.globalCompositeOperation = "copy";
      pen.drawImage(this.video, 0, 0);
      if (split !== null) {                     // A to the left of the line, B to its right
        const { videoWidth: wide, videoHeight: high } = reference.video, at = Math.round(split * width);
        pen.globalCompositeOperation = "source-over";
        if (at > 0) pen.drawImage(reference.video, 0, 0, split * wide, high, 0, 0, at, height);
        pen.fillStyle = "#fff";
        pen.fillRect(at - 0.5, 0, Math.max(1, width / 200), height);
        return;
      }
      pen.globalCompositeOperation = "difference";
      pen.drawImage(reference.video, 0, 0, width, height);
      pen.globalCompositeOperation = "lighter";
      for (let strength = 1; strength < gain; strength *= 2) pen.drawImage(this.canvas, 0, 0);
    }
    undraw() { if (this.canvas) this.canvas.hidden = true; }
  }

  class Player {
    constructor(section) {
      this.bar = section.querySelector("[data-player-bar]");
      this.rows = new Map();
      for (const row of section.querySelectorAll("[data-row]")) {
        this.rows.set(row, [...row.querySelectorAll("[data-clip]")].map((figure) => new Clip(figure)));
      }
      const clips = [...this.rows.values()].flat().filter((clip) => clip.video);
      this.fps = Math.max(1, ...clips.map((clip) => clip.fps));
      this.duration = Math.max(1 / this.fps, ...clips.map((clip) => clip.frames / clip.fps));
      this.frames = Math.round(this.duration * this.fps);
      this.near = new Set();
      this.time = 0;
      this.rate = 1;
      this.gain = 0;
      this.split = null;      // share of the width that shows the reference
      this.playing = false;
      this.startingUntil = 0;
      this.gathered = 0;
      this.told = -1;         // the frame that the bar shows
      this.changed = true;
      this.scrub = this.bar.querySelector("[data-scrub]");
      this.scrub.max = this.frames - 1;
      this.count = this.bar.querySelector("[data-frame-count]");
      this.connect(section);
      this.tick = this.tick.bind(this);
      requestAnimationFrame((now) => { this.then = now; this.tick(now); });
      if (!calm.matches && clips.length) this.play();
    }

    get clips() { return [...this.near].flatMap((row) => this.rows.get(row)).filter((clip) => clip.video); }
    get frame() { return Math.min(this.frames - 1, Math.floor(this.time * this.fps + 1e-3)); }

    connect(section) {
      const redraw = () => { this.changed = true; };
      const loading = new IntersectionObserver((entries) => {
        for (const { target, isIntersecting } of entries) {
          if (isIntersecting) this.near.add(target); else this.near.delete(target);
          for (const clip of this.rows.get(target)) {
            if (isIntersecting) clip.load(() => this.time, redraw); else clip.unload();
          }
        }
        redraw();
      }, { rootMargin: LOAD_AHEAD });
      for (const row of this.rows.keys()) loading.observe(row);
      this.onScreen = false;
      new IntersectionObserver(([entry]) => { this.onScreen = entry.isIntersecting; }).observe(section);

      this.bar.querySelector("[data-play]").addEventListener("click", () => this.toggle());
      for (const button of this.bar.querySelectorAll("[data-step]")) {
        button.addEventListener("click", () => this.step(Number(button.dataset.step)));
      }
      this.scrub.addEventListener("input", () => { this.pause(); this.goTo(Number(this.scrub.value)); });
      this.bar.querySelector("[data-speed]").addEventListener("change", (event) => { this.rate = Number(event.target.value); });
      const show = this.bar.querySelector("[data-show]");
      if (show) this.connectShow(section, show);
      this.connectCurves(section);
      document.addEventListener("keydown", (event) => this.key(event));
      calm.addEventListener("change", () => { if (calm.matches) this.pause(); });
    }

    /* Clips alone, their difference to the reference, or both on the sides of a line that follows the pointer. */
    connectShow(section, show) {
      const slider = this.bar.querySelector("[data-split]"), label = this.bar.querySelector("[data-split-label]");
      const move = (share) => { this.split = Math.min(1, Math.max(0, share)); slider.value = 100 * this.split; this.changed = true; };
      show.addEventListener("change", (event) => {
        const isSplit = event.target.value === "split";
        this.gain = isSplit ? 1 : Number(event.target.value) || 0;
        this.split = isSplit ? slider.value / 100 : null;
        label.hidden = !isSplit;
        section.toggleAttribute("data-splitting", isSplit);
        this.changed = true;
      });
      slider.addEventListener("input", () => move(slider.value / 100));
      section.addEventListener("pointermove", (event) => {
        const screen = this.split !== null && event.target.closest?.(".screen");
        if (!screen) return;
        const box = screen.getBoundingClientRect();
        move((event.clientX - box.left) / box.width);
      });
    }
    /* Under the pointer a curve tells its value, and every clip shows that frame until the pointer leaves. */
    connectCurves(section) {
      let was = null;
      section.addEventListener("pointermove", (event) => {
        const track = event.target.closest?.("[data-series]");
        if (!track) return;
        if (was === null) was = this.playing;
        if (this.playing) this.pause();
        const clip = [...this.rows.get(track.closest("[data-row]"))].find((each) => each.figure.contains(track));
        const box = track.getBoundingClientRect();
        const frame = Math.min(clip.frames - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * clip.frames)));
        const value = JSON.parse(track.dataset.series)[frame];
        const reading = track.querySelector("[data-reading]");
        reading.value = `frame ${frame + 1}: ${value === null || value === undefined ? "no value" : value} ${track.dataset.seriesLabel}`;
        reading.hidden = false;
        const wanted = Math.min(this.frames - 1, Math.floor((frame + 0.5) / clip.fps * this.fps));
        if (wanted !== this.frame) this.goTo(wanted);
      });
      section.addEventListener("pointerout", (event) => {
        const track = event.target.closest?.("[data-series]");
        if (!track || track.contains(event.relatedTarget)) return;
        track.querySelector("[data-reading]").hidden = true;
        if (was) this.play();
        was = null;
      });
    }

    key(event) {
      if (!this.onScreen || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.target.closest("button, a, input, select, textarea, summary, [tabindex]")) return;
      const act = {
        " ": () => this.toggle(),
        ArrowLeft: () => this.step(-1),
        ArrowRight: () => this.step(1),
      }[event.key];
      if (act) { event.preventDefault(); act(); }
    }

    toggle() { if (this.playing) { this.pause(); this.goTo(this.frame); } else this.play(); }
    play() {
      this.playing = true;
      this.startTogether(this.frame >= this.frames - 1 ? 0 : this.time);
      this.label();
    }
    pause() {
      this.playing = false;
      this.startingUntil = 0;
      for (const clip of this.clips) clip.video.pause();
      this.label();
    }
    label() {
      const button = this.bar.querySelector("[data-play]");
      button.setAttribute("aria-label", this.playing ? "Pause" : "Play");
      this.bar.toggleAttribute("data-playing", this.playing);
    }
    step(by) { this.pause(); this.goTo((this.frame + by + this.frames) % this.frames); }
    goTo(frame) {
      this.time = (frame + 0.5) / this.fps;   // the middle of a frame: no rounding can show its neighbour
      for (const clip of this.clips) clip.seek(this.time);
      this.changed = true;
    }
    /* All clips stand, and go on together when the slowest is there. */
    startTogether(time) {
      this.time = time;
      for (const clip of this.clips) clip.stand(time);
      this.startingUntil = performance.now() + LONGEST_WAIT;
    }

    tick(now) {
      requestAnimationFrame(this.tick);
      const passed = Math.min(LONGEST_TICK, (now - this.then) / 1000);
      this.then = now;
      if (this.near.size === 0) return;
      if (this.playing) this.advance(passed, now);
      if (this.playing || this.changed) this.show();
    }
    advance(passed, now) {
      const clips = this.clips;
      if (this.startingUntil) {
        if (now < this.startingUntil && clips.some((clip) => clip.waits)) return;
        this.startingUntil = 0;
      }
      this.time += passed * this.rate;
      if (this.time >= this.duration) { this.startTogether(0); return; }
      for (const clip of clips) clip.follow(this.time, this.rate, now);
      if (now - this.gathered > GATHER_AGAIN && clips.some((clip) => clip.fellBehind)) {
        this.gathered = now;
        this.startTogether(this.time);
      }
    }
    show() {
      this.changed = false;
      const frame = this.frame;
      if (frame !== this.told) {
        this.told = frame;
        this.scrub.value = frame;
        this.count.value = `${frame + 1} / ${this.frames}`;
        this.scrub.setAttribute("aria-valuetext", `frame ${frame + 1} of ${this.frames}, ${(frame / this.fps).toFixed(2)} seconds`);
      }
      for (const row of this.near) {
        const clips = this.rows.get(row);
        const reference = clips.find((clip) => clip.isReference && clip.ready);
        for (const clip of clips) {
          clip.mark(this.time);
          if (!clip.video) continue;
          if (this.gain && reference && clip !== reference && clip.ready) clip.draw(reference, this.gain, this.split);
          else if (!this.gain) clip.undraw();
        }
      }
    }
  }

  const announcer = document.querySelector("[data-announcer]");
  async function copy(button) {
    const text = button.dataset.copy;
    try {
      await navigator.clipboard.writeText(text);
    } catch {                                   // no permission, or not a secure place: the old way
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    const before = button.textContent;
    if (before !== "Copied") {
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = before; }, 1500);
    }
    announcer.textContent = "Command copied";
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (button) copy(button);
  });

  for (const section of document.querySelectorAll("[data-player]")) new Player(section);
})();
