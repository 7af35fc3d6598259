// Which Gaussian lies behind which: their depths, and a counting sort of those in 65,536 steps.

const STEPS = 65536;
export const ORDER_A_ROW = 2048;  // the order fills whole rows of a texture

export class Sorter {
  constructor(xyz, triangle, triangles) {
    Object.assign(this, {xyz, triangle});
    this.size = triangle.length;
    this.order = new Uint32Array(ORDER_A_ROW*Math.max(Math.ceil(this.size/ORDER_A_ROW), 1));
    this.depth = new Float32Array(this.size);
    this.key = new Uint16Array(this.size);
    this.count = new Uint32Array(STEPS + 1);
    this.along = new Float32Array(4*triangles);
  }

  // Fills `order`, the farthest first; gives back how many lie beyond `near`.
  // r, t: the camera's third row, so that depth = r . x + t
  sort(frames, r, t, near) {
    this.#project(frames, r, t);
    const {xyz, triangle, along, depth, key, count, order, size} = this;
    let lo = Infinity, hi = -Infinity;
    for (let i = 0, j = 0; i < size; i++, j += 3) {
      const a = 4*triangle[i];
      const d = along[a]*xyz[j] + along[a + 1]*xyz[j + 1] + along[a + 2]*xyz[j + 2] + along[a + 3];
      depth[i] = d;
      if (d < lo) lo = d;
      if (d > hi) hi = d;
    }
    lo = Math.max(lo, near);
    const scale = hi > lo ? (STEPS - 1)/(hi - lo) : 0;
    count.fill(0);
    let seen = 0;
    for (let i = 0; i < size; i++) if (depth[i] > near) {
      const k = (hi - depth[i])*scale | 0;
      key[i] = k;
      count[k + 1]++;
      seen++;
    }
    for (let k = 0; k < STEPS; k++) count[k + 1] += count[k];
    for (let i = 0; i < size; i++) if (depth[i] > near) order[count[key[i]]++] = i;
    return seen;
  }

  // Of each triangle's frame, what counts towards the depth
  #project(f, [x, y, z], t) {
    const {along} = this;
    for (let i = 0, o = 0; i < along.length; i += 4, o += 12) {
      along[i] = x*f[o] + y*f[o + 1] + z*f[o + 2];
      along[i + 1] = x*f[o + 4] + y*f[o + 5] + z*f[o + 6];
      along[i + 2] = x*f[o + 8] + y*f[o + 9] + z*f[o + 10];
      along[i + 3] = x*f[o + 3] + y*f[o + 7] + z*f[o + 11] + t;
    }
  }
}
