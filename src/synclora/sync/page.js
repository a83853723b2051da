// The sync report's player: one video holds both clips, one frame number drives everything that moves.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const { fps, frames, channels, blinks, off, lost } = data;
const $ = (id) => document.getElementById(id);
const video = $("video");
const panels = [...document.querySelectorAll(".panel")].map((panel) => ({
  panel,
  name: panel.dataset.channel,
  plot: panel.querySelector(".plot"),
  canvas: panel.querySelector("canvas"),
}));
const view = { frame: 0, from: 0, to: frames, marked: null }; // marked: [first, last] frame of the finding chosen
let colour = {};
const ALL_SHOWN = 20; // seconds; a longer clip opens at 8 s around the frame on the screen

// ---- playing -------------------------------------------------------------------------------------------------------

function load() {
  const text = atob($("mp4").textContent);
  $("mp4").remove();
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  video.addEventListener("error", () => ($("broken").hidden = false));
  video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// Seeks aim at the middle of a frame, where no rounding reaches its neighbour. While one is under way only the newest
// wish is kept, so that dragging stays at the pointer.
let wish = null;

function seek(frame) {
  frame = clamp(Math.round(frame), 0, frames - 1);
  show(frame);
  if (video.seeking) wish = frame;
  else video.currentTime = (frame + 0.5) / fps;
}

function step(by) {
  video.pause();
  seek(view.frame + by);
}

function watch() {
  video.addEventListener("seeked", () => {
    if (wish !== null) video.currentTime = (wish + 0.5) / fps;
    wish = null;
  });
  const follow = (frame) => {
    if (!video.paused && !video.seeking) show(clamp(frame, 0, frames - 1));
  };
  if (video.requestVideoFrameCallback) {
    // mediaTime is the presentation time of the very frame on the screen.
    const tick = (_, { mediaTime }) => {
      follow(Math.round(mediaTime * fps));
      video.requestVideoFrameCallback(tick);
    };
    video.requestVideoFrameCallback(tick);
  } else {
    const tick = () => {
      follow(Math.floor(video.currentTime * fps + 1e-3));
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }
  const state = () => {
    $("play").classList.toggle("on", !video.paused);
    $("play").setAttribute("aria-label", video.paused ? "Play" : "Pause");
  };
  video.addEventListener("play", state);
  video.addEventListener("pause", () => {
    state();
    seek(view.frame); // the browser may have stopped between what was told and what is shown
  });
}

const toggle = () => (video.paused ? video.play() : video.pause());

// ---- showing -------------------------------------------------------------------------------------------------------

function show(frame) {
  view.frame = frame;
  $("seek").value = frame;
  $("seek").setAttribute("aria-valuetext", `frame ${frame}, ${(frame / fps).toFixed(2)} seconds`);
  $("clock").innerHTML = `frame <b>${String(frame).padStart(String(frames - 1).length, "\u2007")}</b> · ${(frame / fps).toFixed(2)} s`;
  const before = view.from;
  frameView();
  if (view.from !== before) drawPanels();
  for (const { plot } of panels) plot.style.setProperty("--x", `${x(frame, plot.clientWidth)}px`);
}

// The stretch of frames shown: all, or some seconds around the frame on the screen.
function frameView() {
  const seconds = Number(document.querySelector("[name=zoom]:checked").value);
  const length = seconds ? Math.min(frames, Math.round(seconds * fps)) : frames;
  view.from = clamp(Math.round(view.frame - length / 2), 0, frames - length);
  view.to = view.from + length;
}

const x = (frame, width) => ((frame - view.from + 0.5) / (view.to - view.from)) * width;

function brush(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { pen, width, height };
}

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["source", "edited", "bad", "good", "soft", "grid", "ink", "card"]) {
    colour[name] = style.getPropertyValue(`--${name}`).trim();
  }
}

function drawAll() {
  readColours();
  frameView();
  panels.forEach(prepare);
  drawOverview();
  drawPanels();
  show(view.frame);
}

function drawPanels() {
  drawAxis();
  for (const panel of panels) drawPanel(panel);
}

// What a panel draws at the present settings: both curves, and their lowest and highest value.
function prepare(panel) {
  const { shift, means, source, edited } = channels[panel.name];
  const by = $("unlag").checked ? shift : 0;
  const middles = $("centre").checked ? means : [0, 0];
  const ours = source.map((v) => (v === null ? null : v - middles[0]));
  const theirs = source.map((_, t) => (edited[t + by] == null ? null : edited[t + by] - middles[1]));
  let [low, high] = [Infinity, -Infinity];
  for (const value of [...ours, ...theirs]) {
    if (value === null) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  Object.assign(panel, { by, source: ours, edited: theirs, low, high });
}

function drawPanel({ name, canvas, by, source, edited, low, high }) {
  const { pen, width, height } = brush(canvas);
  const { judged, degrees } = channels[name];
  const room = name === "eyes" ? 16 : 9; // blinks are marked above and below the lids' curve
  const y = (v) => height - room - ((v - low) / (high - low || 1)) * (height - 2 * room);

  for (const [first, last] of lost) band(pen, first, last, width, height, colour.bad, 0.1);
  if (view.marked) band(pen, ...view.marked, width, height, colour.ink, 0.07);
  if (name === "eyes") drawBlinks(pen, width, height, by);
  grid(pen, width, height);
  if (judged) between(pen, source, edited, width, y);
  curve(pen, source, width, y, colour.source);
  curve(pen, edited, width, y, colour.edited);
  if (high >= low && judged) {
    const unit = (v) => (degrees ? `${v.toFixed(0)}°` : v.toFixed(2)).replace("-", "−");
    label(pen, unit(high), width - 4, 10, "right");
    label(pen, unit(low), width - 4, height - 3, "right");
  }
}

// Small words over curves, with a rim of the card's colour so that they stay legible.
function label(pen, text, at, y, align, tone = colour.soft) {
  pen.font = "10.5px system-ui, sans-serif";
  pen.textAlign = align;
  pen.lineJoin = "round";
  pen.lineWidth = 3;
  pen.strokeStyle = colour.card;
  pen.strokeText(text, at, y);
  pen.fillStyle = tone;
  pen.fillText(text, at, y);
}

function band(pen, first, last, width, height, tone, alpha) {
  const [a, b] = [x(first - 0.5, width), x(last + 0.5, width)];
  pen.globalAlpha = alpha;
  pen.fillStyle = tone;
  pen.fillRect(a, 0, Math.max(b - a, 1), height);
  pen.globalAlpha = 1;
}

// Round times in view, in seconds, at least 44 px apart.
function times(width) {
  const span = (view.to - view.from) / fps;
  const every = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60].find((s) => (s / span) * width >= 44) || 300;
  const found = [];
  for (let k = Math.ceil(view.from / fps / every); k * every * fps < view.to; k++) found.push(k * every);
  return found;
}

function grid(pen, width, height) {
  pen.fillStyle = colour.grid;
  for (const time of times(width)) pen.fillRect(Math.round(x(time * fps, width)), 0, 1, height);
}

function drawAxis() {
  const { pen, width } = brush($("axis"));
  for (const time of times(width)) {
    const at = x(time * fps, width);
    label(pen, `${Number(time.toFixed(1))} s`, at < 12 ? 3 : at, 14, at < 12 ? "left" : at > width - 14 ? "right" : "center");
  }
}

// A curve as a path with gaps where it is unknown. Where several frames share a pixel column, only their lowest and
// highest values are drawn.
function curve(pen, values, width, y, tone) {
  const frames = view.to - view.from;
  const columns = Math.min(frames, Math.ceil(width * 1.5));
  pen.strokeStyle = tone;
  pen.lineWidth = frames > width ? 1 : 1.6;
  pen.lineJoin = "round";
  pen.beginPath();
  let down = false;
  for (let c = 0; c < columns; c++) {
    const first = view.from + Math.floor((c * frames) / columns);
    const last = view.from + Math.floor(((c + 1) * frames) / columns);
    const group = values.slice(first, last).filter((v) => v !== null);
    if (!group.length) {
      down = false;
      continue;
    }
    const at = x((first + last - 1) / 2, width);
    const ends = group.length > 1 ? [Math.min(...group), Math.max(...group)] : group;
    for (const value of ends) {
      if (down) pen.lineTo(at, y(value));
      else pen.moveTo(at, y(value)), pen.lineTo(at + 0.01, y(value));
      down = true;
    }
  }
  pen.stroke();
}

// What lies between the two curves is what the edited clip does differently.
function between(pen, source, edited, width, y) {
  pen.fillStyle = colour.bad;
  pen.globalAlpha = 0.2;
  for (let t = view.from; t < view.to; t++) {
    if (source[t] === null || edited[t] === null) continue;
    const start = t;
    while (t + 1 < view.to && source[t + 1] !== null && edited[t + 1] !== null) t++;
    pen.beginPath();
    for (let k = start; k <= t; k++) pen.lineTo(x(k, width), y(source[k]));
    for (let k = t; k >= start; k--) pen.lineTo(x(k, width), y(edited[k]));
    pen.fill();
  }
  pen.globalAlpha = 1;
}

// Blinks: the source's above, the edited clip's below; one without its fellow is lit up through the whole height.
function drawBlinks(pen, width, height, lag) {
  const roomy = 44 * (blinks.source.length + blinks.edited.length) * (view.to - view.from) < width * frames;
  for (const [side, top] of [["source", 0], ["edited", height - 5]]) {
    for (const { onset, length, state } of blinks[side]) {
      const first = side === "edited" ? onset - lag : onset;
      const last = first + length - 1;
      const matched = state === "" || (lag && state.startsWith("moved"));
      if (!matched && !state.startsWith("moved")) band(pen, first, last, width, height, colour.bad, 0.22);
      pen.fillStyle = matched ? colour[side] : colour.bad;
      pen.fillRect(x(first - 0.5, width), top, Math.max(3, x(last + 0.5, width) - x(first - 0.5, width)), 5);
      if (roomy && !matched && (side === "edited" || state === "missing")) {
        const end = x(last + 0.5, width);
        const left = end + 60 > width;
        const at = left ? x(first - 0.5, width) - 4 : end + 4;
        label(pen, state.replace("moved ", ""), at, side === "source" ? 10 : height - 6, left ? "right" : "left", colour.bad);
      }
    }
  }
}

// The whole clip: how far off it is at each moment, frames without a face, and blinks that went wrong.
function drawOverview() {
  const { pen, width, height } = brush($("overview"));
  const inner = (frame) => 2 + (frame / Math.max(1, frames - 1)) * (width - 4); // where the slider's thumb stands
  const columns = Math.min(frames, Math.floor(width / 2));
  pen.fillStyle = colour.bad;
  for (let c = 0; c < columns; c++) {
    const first = Math.floor((c * frames) / columns);
    const last = Math.max(first + 1, Math.floor(((c + 1) * frames) / columns));
    const most = Math.max(...off.slice(first, last));
    const tall = most * height;
    pen.globalAlpha = 0.25 + 0.6 * most;
    pen.fillRect(inner(first - 0.5), height - tall, inner(last - 0.5) - inner(first - 0.5) + 0.3, tall);
  }
  pen.globalAlpha = 1;
  for (const { onset, state } of [...blinks.source, ...blinks.edited]) {
    if (state) {
      pen.beginPath();
      pen.arc(inner(onset), 6, 3, 0, 7);
      pen.fill();
    }
  }
}

// ---- hands ---------------------------------------------------------------------------------------------------------

const places = [...document.querySelectorAll(".findings button")];

function jump(button) {
  const [first, last] = [Number(button.dataset.first), Number(button.dataset.last)];
  for (const other of places) other.classList.toggle("on", other === button);
  for (const { panel, name } of panels) {
    const told = button.dataset.channel === "blinks" ? "eyes" : button.dataset.channel;
    panel.classList.toggle("told", name === told);
  }
  view.marked = [first, last];
  video.pause();
  seek(first);
  drawPanels();
}

function nextPlace(by) {
  if (!places.length) return;
  const now = places.findIndex((button) => button.classList.contains("on"));
  const button = places[(now + by + places.length + (now < 0 && by < 0 ? 1 : 0)) % places.length];
  jump(button);
  button.scrollIntoView({ block: "nearest" });
}

function drag(plot) {
  const at = (event) => {
    const box = plot.getBoundingClientRect();
    seek(view.from + ((event.clientX - box.left) / box.width) * (view.to - view.from) - 0.5);
  };
  plot.addEventListener("pointerdown", (event) => {
    plot.setPointerCapture(event.pointerId);
    video.pause();
    at(event);
  });
  plot.addEventListener("pointermove", (event) => plot.hasPointerCapture(event.pointerId) && at(event));
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { target, key } = event;
  const stepping = target.type === "radio" || target.type === "checkbox";
  const actions = {
    ArrowLeft: stepping || (() => step(event.shiftKey ? -10 : -1)),
    ArrowRight: stepping || (() => step(event.shiftKey ? 10 : 1)),
    Home: () => step(-frames),
    End: () => step(frames),
    " ": stepping || target.tagName === "BUTTON" || toggle,
    "[": () => nextPlace(-1),
    "]": () => nextPlace(1),
  };
  if (typeof actions[key] === "function") {
    event.preventDefault();
    actions[key]();
  }
}

function wire() {
  $("play").addEventListener("click", toggle);
  video.addEventListener("click", toggle);
  $("back").addEventListener("click", () => step(-1));
  $("forward").addEventListener("click", () => step(1));
  $("seek").addEventListener("input", () => {
    video.pause();
    seek(Number($("seek").value));
  });
  $("speed").addEventListener("change", (event) => (video.playbackRate = Number(event.target.value)));
  $("sound")?.addEventListener("change", (event) => (video.muted = !event.target.checked));
  for (const id of ["unlag", "centre", "zoom"]) $(id).addEventListener("change", drawAll);
  for (const button of places) button.addEventListener("click", () => jump(button));
  for (const { plot } of panels) drag(plot);
  document.addEventListener("keydown", keys);
  new ResizeObserver(drawAll).observe(document.querySelector("main"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
}

if (frames / fps > ALL_SHOWN) document.querySelector("[name=zoom][value='8']").checked = true;
load();
watch();
wire();
drawAll();
