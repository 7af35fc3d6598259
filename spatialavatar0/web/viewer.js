// The viewer: an avatar on a canvas, and all that moves it. For a page: `show`. For anywidget: the default export.

import {unpack} from './data.js';
import {Head, headTurn, multiply, turn} from './head.js';
import {Sorter} from './sort.js';
import {NEAR, Splats} from './splats.js';
import {Orbit, handle} from './camera.js';
import {Motions, vector} from './motion.js';
import {element, label, panel} from './panel.js';

const LOOK = {side: 20, up: 10, down: 15};  // degrees of the eye at eyeLookOut = 1, and so on
const REST_AFTER = 160;                     // milliseconds without a change, then the picture is drawn sharp

// What the lids do when the eyes turn, degrees
function lids(yaw, pitch) {
  const part = (angle, whole) => Math.min(Math.max(angle/whole, 0), 1);
  const left = part(yaw, LOOK.side), right = part(-yaw, LOOK.side);
  const up = part(pitch, LOOK.up), down = part(-pitch, LOOK.down);
  return {eyeLookUpLeft: up, eyeLookUpRight: up, eyeLookDownLeft: down, eyeLookDownRight: down,
          eyeLookOutLeft: left, eyeLookInRight: left, eyeLookInLeft: right, eyeLookOutRight: right};
}

// Values of sliders and of a motion, on top of the rest -> what Head.pose wants
export function codes(head, rest, values, motion = {}) {
  const {expression, turns: acted} = head.act(values), n = k => values[k] || 0;
  const seen = n('gaze_yaw') || n('gaze_pitch') ? lids(n('gaze_yaw'), n('gaze_pitch')) : {};
  head.names.forEach((name, k) => { expression[k] += (seen[name] || 0) + (motion[name] || 0) + rest.expression[k]; });
  const sum = (from, name, i = 0) => turn(vector(motion, name, i).map((x, k) => x + (acted[from + k] || 0)));
  const gaze = headTurn(n('gaze_yaw'), n('gaze_pitch'), 0);
  const moved = [turn(vector(motion, 'rotation')),
    multiply(headTurn(n('yaw'), n('pitch'), n('roll')), turn(vector(motion, 'neck'))),
    sum(0, 'jaw'), multiply(gaze, sum(3, 'eyes')), multiply(gaze, sum(6, 'eyes', 3))];
  return {expression, turns: moved.map((m, j) => multiply(m, turn(rest.turns, 3*j))),
          translation: vector(motion, 'translation').map((x, i) => x + rest.translation[i])};
}

export class Viewer {
  // data: bytes; options: background, play, controls (a panel, or only the picture)
  constructor(data, {background = null, play = null, controls = true} = {}) {
    this.data = unpack(data);
    this.head = new Head(this.data);
    this.motions = new Motions(this.data);
    this.orbit = new Orbit(this.data.view);
    Object.assign(this, {values: {}, acting: {}, playing: null, hold: null, recorder: null,
      background: null, quality: .5, listeners: new Set()});
    this.canvas = element('canvas', {tabindex: 0, role: 'img', 'aria-label':
      'The avatar. Drag or use the arrow keys to go around it, plus and minus to zoom, 0 to go back.'});
    this.status = element('p', {class: 'sav-status', role: 'status'});
    this.stage = element('div', {class: 'sav-stage'}, this.canvas, this.status);
    this.panel = panel(this);
    this.node = element('div', {class: 'sav', 'data-lm-suppress-shortcuts': true,  // JupyterLab leaves the keys to us
      onkeydown: e => e.stopPropagation()},
      element('div', {class: 'sav-body'}, this.stage, ...controls ? [this.panel.node] : []));
    this.node.viewer = this;  // for whoever finds the element
    this.#start();
    this.setBackground(background);
    const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    if (this.motions.names.includes(play) && !calm) this.play(play);
  }

  #start() {
    this.ending = new AbortController();
    const {signal} = this.ending, listen = (kind, f) => this.canvas.addEventListener(kind, f, {signal});
    this.gl = this.canvas.getContext('webgl2', {antialias: false, depth: false, powerPreference: 'high-performance'});
    if (!this.gl) {
      this.status.textContent = 'This browser shows no WebGL 2, which the avatar needs.';
      this.stage.classList.add('sav-failed');
      return;
    }
    listen('webglcontextlost', e => { e.preventDefault(); this.splats = null; });
    listen('webglcontextrestored', () => { this.#upload(); this.request(); });
    this.#upload();
    handle(this.canvas, this.orbit, () => this.changed('view'), signal);
    this.resizing = new ResizeObserver(() => this.request());
    this.resizing.observe(this.stage);
  }

  #upload() {
    this.splats = new Splats(this.gl, this.data, this.head);
    this.sorter = new Sorter(this.splats.xyz, this.splats.triangle, this.head.triangles);
    this.posed = null;
  }

  // Values by name: actions 0 to 1; yaw, pitch, roll, gaze_yaw, gaze_pitch in degrees
  set(values) {
    Object.assign(this.values, values);
    this.changed('values');
  }

  // One instant of a movement that comes from elsewhere, by column, as `Motions.at` has it
  act(motion) {
    this.acting = motion;
    this.changed('acting');
  }

  // A face as a whole: what is not named is at rest
  face(values) {
    this.values = {...values};
    this.play(null);
    this.changed('values');
  }

  reset() {
    this.values = {};
    this.acting = {};
    this.orbit.reset();
    this.play(null);
    this.changed('values', 'view');
  }

  play(name) {
    this.playing = name;
    this.began = performance.now();
    this.panel.playing(name);
    this.changed('playing');
  }

  // A CSS colour, or null for a studio's wall
  setBackground(colour) {
    this.background = colour;
    this.stage.style.background = colour || '';
    this.panel.background(colour);
    this.changed('background');
  }

  changed(...what) {
    if (what.includes('values')) this.panel.set(this.values);
    if (what.includes('values') || what.includes('acting')) this.posed = null;
    this.touched = performance.now();
    this.met ||= what.includes('values') || what.includes('view');
    this.listeners.forEach(f => f(...what));
    this.request();
  }

  request() {
    if (!this.waiting) this.waiting = requestAnimationFrame(now => { this.waiting = 0; this.#frame(now); });
  }

  // One frame on the screen: coarse while something moves and the machine is slow, sharp at rest
  #frame(now) {
    if (!this.splats || !this.stage.clientWidth) return;
    const moving = this.playing || this.recorder || now - this.touched < REST_AFTER;
    if (moving && this.last) {
      const took = now - this.last;
      const change = took > 45 ? Math.max(Math.sqrt(30/took), .5) : took < 22 ? 1.1 : 1;
      this.quality = Math.min(Math.max(this.quality*change, .35), 1);
    }
    this.last = moving ? now : 0;
    const ratio = Math.min(devicePixelRatio || 1, 2)*(moving && !this.recorder ? this.quality : 1);
    const size = side => Math.max(Math.round(side*ratio), 1);
    const camera = this.orbit.camera(size(this.stage.clientWidth), size(this.stage.clientHeight));
    this.draw(camera, this.recorder ? numbers(this.background || WALL[0]) : undefined);
    if (this.drawn === undefined) this.#first();
    if (!moving) this.#tell();
    if (moving) this.request();
  }

  // Notes when the first picture stood on the canvas, milliseconds since the page was opened
  #first() {
    const {gl} = this, fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
    const look = () => {
      if (gl.getSyncParameter(fence, gl.SYNC_STATUS) !== gl.SIGNALED) setTimeout(look, 4);
      else this.drawn = performance.now();
    };
    this.drawn = NaN;
    look();
  }

  // The avatar as a camera sees it: {width, height, R (9), t (3), focal (2), centre (2)}
  draw(camera, background = [0, 0, 0, 0]) {
    const {canvas} = this;
    if (canvas.width !== camera.width) canvas.width = camera.width;
    if (canvas.height !== camera.height) canvas.height = camera.height;
    if (this.pose()) this.splats.move(this.head);
    const count = this.sort(camera);
    this.splats.draw(camera, this.sorter.order, count, background);
  }

  // Pose the head, unless it stands so already; `hold` stops a movement at some second
  pose(seconds = this.hold ?? (performance.now() - this.began)/1000) {
    if (this.posed && !this.playing) return false;
    const motion = this.playing ? this.motions.at(this.playing, seconds % this.motions.seconds(this.playing)) : this.acting;
    this.head.pose(codes(this.head, this.data.rest, this.values, motion));
    return this.posed = true;
  }

  sort(camera) { return this.sorter.sort(this.head.frames, camera.R.slice(6), camera.t[2], NEAR); }

  // Its pixels, four bytes each, from the top down
  pixels(camera, background = [0, 0, 0, 0]) {
    const {gl} = this, {width, height} = camera, row = 4*width;
    this.draw(camera, background);
    const found = new Uint8Array(row*height), turned = new Uint8Array(row*height);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, found);
    for (let y = 0; y < height; y++) turned.set(found.subarray(row*y, row*(y + 1)), row*(height - 1 - y));
    this.request();
    return turned;
  }

  // A PNG of what is seen, with its background
  async picture() {
    const scale = Math.max(devicePixelRatio || 1, 1), {clientWidth, clientHeight} = this.stage;
    const [width, height] = [clientWidth, clientHeight].map(x => Math.round(x*scale));
    this.draw(this.orbit.camera(width, height));
    const paper = element('canvas', {width, height}), pen = paper.getContext('2d');
    pen.fillStyle = this.background || wall(pen, width, height);
    pen.fillRect(0, 0, width, height);
    pen.drawImage(this.canvas, 0, 0);
    this.request();
    return new Promise(done => paper.toBlob(done, 'image/png'));
  }

  async save() { this.download(await this.picture(), 'avatar.png'); }

  // A film of what is seen, from one call to the next, in the format that this browser can write
  record() {
    if (this.recorder) return this.recorder.stop();
    const kind = ['video/mp4', 'video/webm'].find(k => globalThis.MediaRecorder?.isTypeSupported(k));
    if (!kind) { this.status.textContent = 'This browser records no films.'; return; }
    const parts = [], recorder = new MediaRecorder(this.canvas.captureStream(30),
      {mimeType: kind, videoBitsPerSecond: 12e6});
    recorder.ondataavailable = e => parts.push(e.data);
    recorder.onstop = () => {
      this.recorder = null;
      this.panel.recording(false);
      this.changed('recording');
      this.download(new Blob(parts, {type: kind}), `avatar.${kind.slice(6)}`);
    };
    this.recorder = recorder;
    this.panel.recording(true);
    this.changed('recording');
    recorder.start();
  }

  download(blob, name) {
    const url = URL.createObjectURL(blob);
    element('a', {href: url, download: name}).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  // Milliseconds that posing and sorting take, of n times: [all], without drawing
  measure(n = 50) {
    const took = [], camera = this.orbit.camera(512, 512), {playing} = this;
    const name = this.motions.names.includes('demo') ? 'demo' : this.motions.names[0] || null;
    for (let i = 0; i < n; i++) {
      const start = performance.now();
      this.playing = name;
      this.pose(name ? this.motions.seconds(name)*i/n : 0);
      this.sort(camera);
      took.push(performance.now() - start);
    }
    Object.assign(this, {playing, posed: null});
    this.request();
    return took;
  }

  // One line on what is seen
  #tell() {
    if (!this.met) {
      const fingers = matchMedia('(pointer: coarse)').matches;
      this.status.textContent = `Drag to turn, ${fingers ? 'pinch' : 'scroll'} to zoom`;
      return;
    }
    const {yaw, pitch} = this.orbit, [x, y] = [yaw, pitch].map(Math.round);
    const side = x ? `${Math.abs(x)}° from the ${x > 0 ? 'left' : 'right'}` : 'from the front';
    const height = y ? `, ${Math.abs(y)}° from ${y > 0 ? 'above' : 'below'}` : '';
    const names = Object.keys(this.values).filter(k => this.values[k]);
    const moved = [...new Set(names.map(k => label(k)[0].toLowerCase()))];
    const face = moved.length > 3 ? `${moved.length} movements` : moved.join(', ');
    this.status.textContent = `Seen ${side}${height}${face && ` · ${face}`}`;
  }

  remove() {
    cancelAnimationFrame(this.waiting);
    this.playing = null;
    this.ending.abort();
    this.resizing?.disconnect();
    this.gl?.getExtension('WEBGL_lose_context')?.loseContext();
    this.node.remove();
  }
}

const WALL = ['#e4e4e6', '#a6a8ad'];  // the studio's: light in the middle, darker around

// A CSS colour -> red, green, blue and alpha
function numbers(colour) {
  const pen = element('canvas', {width: 1, height: 1}).getContext('2d');
  pen.fillStyle = colour;
  pen.fillRect(0, 0, 1, 1);
  return [...pen.getImageData(0, 0, 1, 1).data].map(x => x/255);
}

function wall(pen, width, height) {
  const g = pen.createRadialGradient(width/2, .4*height, 0, width/2, .4*height, Math.max(.5*width, .6*height));
  WALL.forEach((colour, i) => g.addColorStop(i, colour));
  return g;
}

// A viewer in an element of a page
export function show(place, data, options) {
  const viewer = new Viewer(data, options);
  place.append(viewer.node);
  viewer.request();
  return viewer;
}

const decode = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));

// The page that `export_html` writes
export function page() {
  const place = document.getElementById('avatar'), store = document.getElementById('data');
  const options = JSON.parse(document.getElementById('options').textContent);
  const bytes = decode(store.textContent);
  store.remove();
  return globalThis.viewer = show(place, bytes, options);
}

// The widget: its model holds the bytes; values, playing, background and view go both ways, acting comes
function render({model, el}) {
  const viewer = show(el, model.get('data'), {controls: model.get('controls')});
  viewer.node.style.height = `${model.get('height')}px`;
  let quiet = false, later = 0;
  const send = () => {
    const {yaw, pitch, distance, target} = viewer.orbit;
    model.set('values', {...viewer.values});
    model.set('view', {yaw, pitch, distance, target});
    model.set('playing', viewer.playing || '');
    model.set('background', viewer.background || '');
    model.save_changes();
  };
  viewer.listeners.add(() => { if (!quiet) { clearTimeout(later); later = setTimeout(send, 120); } });
  const from = f => () => { quiet = true; try { f(); } finally { quiet = false; } };
  const follow = {
    values: from(() => { viewer.values = {...model.get('values')}; viewer.changed('values'); }),
    view: from(() => { Object.assign(viewer.orbit, model.get('view')); viewer.changed('view'); }),
    playing: from(() => {
      if ((viewer.playing || '') !== model.get('playing')) viewer.play(model.get('playing') || null);
    }),
    background: from(() => viewer.setBackground(model.get('background') || null)),
    acting: from(() => viewer.act(model.get('acting')))};
  for (const [name, f] of Object.entries(follow)) { f(); model.on(`change:${name}`, f); }
  return () => {
    clearTimeout(later);
    for (const [name, f] of Object.entries(follow)) model.off(`change:${name}`, f);
    viewer.remove();
  };
}

export default {render};
