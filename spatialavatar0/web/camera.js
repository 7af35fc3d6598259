// A camera that goes around the head, and the hands that move it: mouse, touch, keyboard.

const cross = (a, b) => [a[1]*b[2] - a[2]*b[1], a[2]*b[0] - a[0]*b[2], a[0]*b[1] - a[1]*b[0]];
const dot = (a, b) => a[0]*b[0] + a[1]*b[1] + a[2]*b[2];
const unit = a => a.map(x => x/Math.hypot(...a));
const clamp = (x, lo, hi) => Math.min(Math.max(x, lo), hi);

export class Orbit {
  // target: a point, metres; distance: metres; fov: degrees, of the smaller side of the picture
  constructor({target, distance, fov}) {
    this.home = {target, distance, fov, yaw: 0, pitch: 0};
    this.reset();
  }

  reset() { Object.assign(this, this.home, {target: [...this.home.target]}); }

  turn(yaw, pitch) {
    this.yaw = (this.yaw + yaw + 540) % 360 - 180;
    this.pitch = clamp(this.pitch + pitch, -85, 85);
  }

  zoom(factor) { this.distance = clamp(this.distance*factor, this.home.distance/8, this.home.distance*4); }

  // Shares of the picture, to the right and down
  pan(x, y) {
    const {R} = this.camera(1, 1), span = 2*this.distance*Math.tan(this.fov*Math.PI/360);
    const reach = .5*this.home.distance*Math.tan(this.home.fov*Math.PI/360);
    this.target = this.target.map((c, i) =>
      clamp(c - span*(x*R[i] + y*R[3 + i]), this.home.target[i] - 2*reach, this.home.target[i] + 2*reach));
  }

  // Of a picture of so many pixels: axes x right, y down, z forward
  camera(width, height) {
    const [y, p] = [this.yaw, this.pitch].map(a => a*Math.PI/180);
    const out = [Math.sin(y)*Math.cos(p), Math.sin(p), Math.cos(y)*Math.cos(p)];
    const eye = this.target.map((c, i) => c + this.distance*out[i]);
    const forward = out.map(x => -x), right = unit(cross(forward, [0, 1, 0])), down = cross(forward, right);
    const f = Math.min(width, height)/(2*Math.tan(this.fov*Math.PI/360));
    return {width, height, R: [...right, ...down, ...forward], t: [right, down, forward].map(a => -dot(a, eye)),
            focal: [f, f], centre: [width/2, height/2]};
  }
}

// One finger or button turns, two fingers (or shift) shift and zoom, the wheel zooms, so do keys.
// `changed` is called after each; listeners go with `signal`.
export function handle(canvas, orbit, changed, signal) {
  const fingers = new Map();
  const listen = (kind, f) => canvas.addEventListener(kind, f, {signal, passive: false});
  const size = () => Math.min(canvas.clientWidth, canvas.clientHeight) || 1;

  listen('pointerdown', e => {
    canvas.setPointerCapture(e.pointerId);
    fingers.set(e.pointerId, [e.clientX, e.clientY]);
  });
  for (const kind of ['pointerup', 'pointercancel']) listen(kind, e => fingers.delete(e.pointerId));
  listen('pointermove', e => {
    const was = fingers.get(e.pointerId);
    if (!was) return;
    const now = [e.clientX, e.clientY], [dx, dy] = [now[0] - was[0], now[1] - was[1]];
    const others = [...fingers].filter(([id]) => id !== e.pointerId).map(([, at]) => at);
    fingers.set(e.pointerId, now);
    if (others.length) {
      const apart = at => Math.hypot(at[0] - others[0][0], at[1] - others[0][1]) || 1;
      orbit.zoom(apart(was)/apart(now));
      orbit.pan(dx/2/size(), dy/2/size());
    }
    else if (e.shiftKey || e.buttons & 6) orbit.pan(dx/size(), dy/size());
    else orbit.turn(-180*dx/size(), 180*dy/size());
    changed();
  });
  listen('contextmenu', e => e.preventDefault());
  listen('wheel', e => {
    e.preventDefault();
    orbit.zoom(Math.exp(clamp(e.deltaY*(e.deltaMode ? 30 : 1), -200, 200)*.0015));
    changed();
  });
  const keys = {
    ArrowLeft: () => orbit.turn(-5, 0), ArrowRight: () => orbit.turn(5, 0),
    ArrowUp: () => orbit.turn(0, 5), ArrowDown: () => orbit.turn(0, -5),
    '+': () => orbit.zoom(1/1.1), '=': () => orbit.zoom(1/1.1), '-': () => orbit.zoom(1.1),
    '0': () => orbit.reset(), Home: () => orbit.reset()};
  listen('keydown', e => {
    if (!keys[e.key] || e.ctrlKey || e.metaKey || e.altKey) return;
    e.preventDefault();
    e.stopPropagation();
    keys[e.key]();
    changed();
  });
}
