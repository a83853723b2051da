// The benchmark's player: one video holds all clips of a pair as tiles; each canvas shows one of them.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const video = $("video");
const urls = [...document.querySelectorAll("script.mp4")].map((element) => {
  const bytes = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
  element.remove();
  return URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
});
const sharp = Math.min(3, Math.max(1, Math.round(512 / data.width))); // canvas pixels for one of the clip's
const panels = [...document.querySelectorAll("figure")].map((figure, index) => {
  const canvas = figure.querySelector("canvas");
  canvas.width = data.width * sharp;
  canvas.height = data.height * sharp;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  return { figure, canvas, pen, ...data.panels[index] };
});
const truth = panels.find((panel) => panel.name === "truth");
let current = 0;

const pair = () => data.pairs[current];
const frame = () => Math.min(pair().frames - 1, Math.floor(video.currentTime * pair().fps + 1e-3));

function paint(pen, canvas, tile) {
  pen.drawImage(video, tile.x, tile.y, data.width, data.height, 0, 0, canvas.width, canvas.height);
}

function draw() {
  if (video.readyState < 2) return;
  const differs = $("difference").checked;
  for (const panel of panels) {
    const { pen, canvas, name } = panel;
    pen.globalCompositeOperation = "source-over";
    paint(pen, canvas, panel);
    if (differs && name !== "source" && name !== "truth") {
      pen.globalCompositeOperation = "difference";
      paint(pen, canvas, truth);
      pen.globalCompositeOperation = "lighter"; // twice added to itself: four times as bright
      for (let times = 0; times < 2; times++) pen.drawImage(canvas, 0, 0);
    }
  }
  $("seek").value = frame();
  $("clock").textContent = `frame ${frame()}`;
}

function watch() {
  draw();
  if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(watch);
  else requestAnimationFrame(watch);
}

// The middle of a frame, where no rounding reaches its neighbour.
function seek(to) {
  const last = pair().frames - 1;
  video.currentTime = (Math.min(last, Math.max(0, to)) + 0.5) / pair().fps;
}

function choose(index) {
  const playing = !video.paused;
  current = (index + data.pairs.length) % data.pairs.length;
  $("pair").value = current;
  $("seek").max = pair().frames - 1;
  panels.forEach((panel, at) => (panel.figure.querySelector("span").textContent = pair().told[at]));
  video.src = urls[current];
  video.playbackRate = Number($("speed").value);
  if (playing) video.play();
  else seek(0);
}

function toggle() {
  if (video.paused) video.play();
  else video.pause();
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  const step = (by) => () => {
    video.pause();
    seek(frame() + by);
  };
  const actions = {
    " ": event.target.tagName === "BUTTON" ? null : toggle,
    ArrowLeft: step(-1),
    ArrowRight: step(1),
    ArrowUp: () => choose(current - 1),
    ArrowDown: () => choose(current + 1),
    d: () => $("difference").click(),
  };
  const action = actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

video.addEventListener("error", () => ($("broken").hidden = false));
for (const name of ["loadeddata", "seeked"]) video.addEventListener(name, draw);
for (const [name, on] of [["play", true], ["pause", false]]) {
  video.addEventListener(name, () => {
    $("play").classList.toggle("on", on);
    $("play").setAttribute("aria-label", on ? "Pause" : "Play");
  });
}
$("play").addEventListener("click", toggle);
for (const { canvas } of panels) canvas.addEventListener("click", toggle);
$("seek").addEventListener("input", () => {
  video.pause();
  seek(Number($("seek").value));
});
$("speed").addEventListener("change", () => (video.playbackRate = Number($("speed").value)));
$("difference").addEventListener("change", draw);
$("pair").addEventListener("change", () => choose(Number($("pair").value)));
document.addEventListener("keydown", keys);
choose(0);
watch();
