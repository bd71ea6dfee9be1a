"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const places = new Uint16Array(bytes(data.places));
  const neighbours = new Uint32Array(bytes(data.neighbours));
  const count = data.names.length;
  const atlas = document.getElementById("atlas");
  const plane = document.getElementById("plane");
  const map = document.getElementById("map");
  const context = map.getContext("2d");
  const hover = document.getElementById("hover");
  const view = { x: 0.5, y: 0.5, scale: 1 }; // centre in 0..1, and pixels per unit
  let chosen = -1;
  let near = new Set();
  let waiting = false;

  const x = (i) => places[2 * i] / 65535;
  const y = (i) => 1 - places[2 * i + 1] / 65535;
  const size = () => ({ width: plane.clientWidth, height: plane.clientHeight });
  let room = { width: 1, height: 1 }; // asked for once a frame: each question makes the browser lay out the page
  const onScreen = (i) =>
    [(x(i) - view.x) * view.scale + room.width / 2, (y(i) - view.y) * view.scale + room.height / 2];
  // Pictures grow with the zoom, up to half as large again as they are.
  const sideNow = () => {
    const { width, height } = size();
    const fitting = Math.sqrt((0.5 * view.scale * view.scale) / Math.max(1, count));
    return Math.max(6, Math.min(1.5 * data.side, fitting, Math.min(width, height) / 3));
  };

  function showAll() {
    const { width, height } = size();
    Object.assign(view, { x: 0.5, y: 0.5, scale: 0.9 * Math.max(50, Math.min(width, height)) });
    draw();
  }

  // The atlas at half, a quarter ... of its size: ten thousand small pictures are drawn from small ones.
  const atlases = [{ image: atlas, side: data.side }];
  function makeSmaller() {
    let last = atlases[0];
    while (last.side > 8) {
      const side = Math.max(6, Math.round(last.side / 2));
      const canvas = document.createElement("canvas");
      canvas.width = data.columns * side;
      canvas.height = Math.ceil(count / data.columns) * side;
      canvas.getContext("2d").drawImage(last.image, 0, 0, canvas.width, canvas.height);
      last = { image: canvas, side };
      atlases.push(last);
    }
    if (last.image !== atlas) {
      const whole = last.image.getContext("2d").getImageData(0, 0, last.image.width, last.image.height);
      tiny = { pixels: new Uint32Array(whole.data.buffer), width: whole.width, side: last.side };
    }
  }

  // Pictures of a few pixels are copied by hand: a call of the canvas for each takes longer than its pixels.
  let tiny = null;
  let frame = null;
  function drawTiny(shown, side) {
    const { width, height } = map;
    if (!frame || frame.width !== width || frame.height !== height) frame = context.createImageData(width, height);
    const out = new Uint32Array(frame.data.buffer);
    out.fill(0);
    const step = tiny.side / side;
    for (const [i, x, y] of shown) {
      const from = Math.floor(i / data.columns) * tiny.side * tiny.width + (i % data.columns) * tiny.side;
      const left = Math.round(x - side / 2), top = Math.round(y - side / 2);
      for (let dy = Math.max(0, -top); dy < side && top + dy < height; dy++) {
        const row = from + Math.floor(dy * step) * tiny.width, to = (top + dy) * width + left;
        for (let dx = Math.max(0, -left); dx < side && left + dx < width; dx++) {
          out[to + dx] = tiny.pixels[row + Math.floor(dx * step)];
        }
      }
    }
    context.putImageData(frame, 0, 0);
  }

  function picture(target, i, left, top, side) {
    const column = i % data.columns, row = Math.floor(i / data.columns);
    const pixels = side * (target === context ? window.devicePixelRatio || 1 : 1);
    let from = atlases[0];
    for (const each of atlases) if (each.side >= pixels) from = each;
    target.drawImage(from.image, column * from.side, row * from.side, from.side, from.side, left, top, side, side);
  }

  function drawNow() {
    waiting = false;
    room = size();
    const { width, height } = room;
    const ratio = window.devicePixelRatio || 1;
    if (map.width !== Math.round(width * ratio) || map.height !== Math.round(height * ratio)) {
      map.width = Math.round(width * ratio);
      map.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const side = sideNow();
    const byHand = tiny !== null && side * ratio <= 12;
    const marked = [], small = [];
    for (let i = 0; i < count; i++) {
      const [left, top] = onScreen(i);
      if (left < -side || top < -side || left > width + side || top > height + side) continue;
      if (i === chosen || near.has(i)) marked.push([i, left, top]);
      else if (byHand) small.push([i, left * ratio, top * ratio]);
      else picture(context, i, left - side / 2, top - side / 2, side);
    }
    if (byHand) drawTiny(small, Math.round(side * ratio));
    for (const [i, left, top] of marked) {
      const larger = Math.max(1.3 * side, 24);
      picture(context, i, left - larger / 2, top - larger / 2, larger);
      context.lineWidth = 2;
      context.strokeStyle = i === chosen ? "#c2185b" : "#1565c0";
      context.strokeRect(left - larger / 2, top - larger / 2, larger, larger);
    }
    map.dataset.drawn = String(Number(map.dataset.drawn || 0) + 1);
  }

  function draw() {
    if (!waiting) {
      waiting = true;
      requestAnimationFrame(drawNow);
    }
  }

  function zoom(factor, left, top) {
    const { width, height } = size();
    const before = [view.x + (left - width / 2) / view.scale, view.y + (top - height / 2) / view.scale];
    view.scale = Math.max(40, Math.min(4e5, view.scale * factor));
    view.x = before[0] - (left - width / 2) / view.scale;
    view.y = before[1] - (top - height / 2) / view.scale;
    draw();
  }

  function at(left, top) {
    let best = -1, least = Infinity;
    const reach = Math.max(10, 0.7 * sideNow());
    for (let i = 0; i < count; i++) {
      const [px, py] = onScreen(i);
      const apart = Math.max(Math.abs(px - left), Math.abs(py - top));
      if (apart < reach && apart < least) [best, least] = [i, apart];
    }
    return best;
  }

  function card(i) {
    const button = document.createElement("button");
    button.className = "card";
    button.title = data.names[i];
    const canvas = document.createElement("canvas");
    canvas.className = "thumb";
    canvas.width = canvas.height = data.side;
    picture(canvas.getContext("2d"), i, 0, 0, data.side);
    const name = document.createElement("div");
    name.className = "name";
    name.textContent = data.names[i].split("/").pop();
    button.append(canvas, name);
    button.addEventListener("click", () => choose(i));
    return button;
  }

  function choose(i) {
    chosen = i;
    const own = Array.from(neighbours.subarray(i * data.perImage, (i + 1) * data.perImage)).filter((j) => j < count);
    near = new Set(own);
    document.getElementById("hint").hidden = true;
    document.getElementById("near").hidden = false;
    document.getElementById("chosen").replaceChildren(card(i));
    document.getElementById("list").replaceChildren(...own.map(card));
    draw();
  }

  function showHover(i, left, top) {
    hover.hidden = i < 0;
    if (i < 0) return;
    const canvas = hover.querySelector("canvas");
    canvas.width = canvas.height = data.side;
    picture(canvas.getContext("2d"), i, 0, 0, data.side);
    hover.querySelector("figcaption").textContent = data.names[i];
    const { width, height } = size();
    hover.style.left = `${Math.max(0, Math.min(left + 14, width - 176))}px`;
    hover.style.top = `${Math.max(0, Math.min(top + 14, height - 210))}px`;
  }

  const fingers = new Map();
  let moved = 0;
  const spot = (event) => {
    const box = map.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const spread = () => {
    const [a, b] = [...fingers.values()];
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
  };
  map.addEventListener("pointerdown", (event) => {
    if (!fingers.size) moved = 0;
    fingers.set(event.pointerId, spot(event));
    map.setPointerCapture(event.pointerId);
    map.classList.add("dragged");
  });
  map.addEventListener("pointermove", (event) => {
    const now = spot(event);
    if (!fingers.has(event.pointerId)) {
      showHover(at(...now), ...now);
      return;
    }
    const before = fingers.get(event.pointerId);
    const apart = fingers.size === 2 ? spread() : 0;
    fingers.set(event.pointerId, now);
    moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
    view.x -= (now[0] - before[0]) / view.scale / fingers.size;
    view.y -= (now[1] - before[1]) / view.scale / fingers.size;
    if (fingers.size === 2 && apart > 0) zoom(spread() / apart, ...now);
    hover.hidden = true;
    draw();
  });
  const release = (event) => {
    fingers.delete(event.pointerId);
    if (!fingers.size) map.classList.remove("dragged");
  };
  map.addEventListener("pointerup", (event) => {
    release(event);
    const i = moved < 6 ? at(...spot(event)) : -1;
    if (i >= 0) choose(i);
  });
  map.addEventListener("pointercancel", release);
  map.addEventListener("pointerleave", () => { hover.hidden = true; });
  map.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), ...spot(event));
  }, { passive: false });
  const middle = () => [size().width / 2, size().height / 2];
  map.addEventListener("keydown", (event) => {
    const step = 60 / view.scale;
    const keys = {
      "+": () => zoom(1.4, ...middle()), "=": () => zoom(1.4, ...middle()), "-": () => zoom(1 / 1.4, ...middle()),
      "0": showAll,
      ArrowLeft: () => { view.x -= step; }, ArrowRight: () => { view.x += step; },
      ArrowUp: () => { view.y -= step; }, ArrowDown: () => { view.y += step; },
    };
    if (keys[event.key]) {
      keys[event.key]();
      event.preventDefault();
      draw();
    }
  });
  document.getElementById("in").addEventListener("click", () => zoom(1.6, ...middle()));
  document.getElementById("out").addEventListener("click", () => zoom(1 / 1.6, ...middle()));
  document.getElementById("all").addEventListener("click", showAll);
  new ResizeObserver(draw).observe(plane);
  atlas.decode().then(makeSmaller).then(showAll, showAll);
})();
