// The head: from what a face does to a posed mesh, and to a frame on each of its triangles.

export const TRIANGLES_A_ROW = 512;  // of the texture of frames; three texels each

// Axis-angle v[at..at+2] -> nine numbers, row by row (Rodrigues)
export function turn(v, at = 0) {
  const [x, y, z] = [v[at], v[at + 1], v[at + 2]];
  const angle = Math.hypot(x, y, z);
  if (angle < 1e-9) return [1, -z, y, z, 1, -x, -y, x, 1];
  const a = Math.sin(angle)/angle, b = 2*(Math.sin(angle/2)/angle)**2, c = Math.cos(angle);
  return [c + b*x*x, b*x*y - a*z, b*x*z + a*y,
          b*x*y + a*z, c + b*y*y, b*y*z - a*x,
          b*x*z - a*y, b*y*z + a*x, c + b*z*z];
}

export function multiply(A, B) {
  const C = new Array(9);
  for (let i = 0; i < 3; i++) for (let j = 0; j < 3; j++)
    C[3*i + j] = A[3*i]*B[j] + A[3*i + 1]*B[3 + j] + A[3*i + 2]*B[6 + j];
  return C;
}

const apply = (A, v) => [0, 3, 6].map(i => A[i]*v[0] + A[i + 1]*v[1] + A[i + 2]*v[2]);

// Roll, then pitch, then yaw, in degrees: to the subject's left, up, onto the left shoulder
export function headTurn(yaw, pitch, roll) {
  const r = Math.PI/180;
  return multiply(turn([0, yaw*r, 0]), multiply(turn([-pitch*r, 0, 0]), turn([0, 0, -roll*r])));
}

export class Head {
  constructor({arrays, names, parents}) {
    Object.assign(this, {names, parents, ...arrays});
    this.vertices = this.template.length/3;
    this.triangles = this.faces.length/3;
    this.shaped = new Float32Array(this.template.length);
    this.posed = new Float32Array(this.template.length);
    this.rows = Math.ceil(this.triangles/TRIANGLES_A_ROW);
    this.frames = new Float32Array(12*TRIANGLES_A_ROW*this.rows);
    this.combinations = combinations(names);
  }

  // expression (E numbers), turns (five matrices: root, neck, jaw, left eye, right eye), translation
  pose({expression, turns, translation}) {
    const E = this.names.length, correctives = this.starts.length - 1 - E;
    this.shaped.set(this.template);
    const joints = Float64Array.from(this.joints);
    for (let k = 0; k < E; k++) if (expression[k]) {
      this.#add(k, expression[k]);
      for (let i = 0; i < 15; i++) joints[i] += expression[k]*this.jointMoves[15*k + i];
    }
    for (let k = 0; k < correctives; k++) {
      const j = 1 + Math.floor(k/9), i = k % 9;
      const c = turns[j][i] - (i % 4 ? 0 : 1);
      if (Math.abs(c) > 1e-7) this.#add(E + k, c);
    }
    this.#skin(bones(joints, turns, this.parents, translation));
    this.#frame();
  }

  // A column of the basis, on the vertices that it moves
  #add(column, amount) {
    const {starts, where, moves, shaped} = this, end = starts[column + 1];
    for (let i = starts[column]; i < end; i++) {
      const v = 3*where[i];
      shaped[v] += amount*moves[3*i];
      shaped[v + 1] += amount*moves[3*i + 1];
      shaped[v + 2] += amount*moves[3*i + 2];
    }
  }

  // Each vertex by the weighted mean of its joints' matrices (five times 12 numbers)
  #skin(B) {
    const {weights, shaped, posed, vertices} = this;
    for (let v = 0; v < vertices; v++) {
      const x = shaped[3*v], y = shaped[3*v + 1], z = shaped[3*v + 2];
      let px = 0, py = 0, pz = 0;
      for (let j = 0; j < 5; j++) {
        const w = weights[5*v + j], b = 12*j;
        if (w === 0) continue;
        px += w*(B[b]*x + B[b + 1]*y + B[b + 2]*z + B[b + 3]);
        py += w*(B[b + 4]*x + B[b + 5]*y + B[b + 6]*z + B[b + 7]);
        pz += w*(B[b + 8]*x + B[b + 9]*y + B[b + 10]*z + B[b + 11]);
      }
      posed[3*v] = px; posed[3*v + 1] = py; posed[3*v + 2] = pz;
    }
  }

  // Of each triangle three texels: s a0, s a1 and s a2, with the centre's x, y and z as the fourth number
  #frame() {
    const {faces, posed: p, frames: f, triangles} = this;
    for (let i = 0, o = 0; i < triangles; i++, o += 12) {
      const u = 3*faces[3*i], v = 3*faces[3*i + 1], w = 3*faces[3*i + 2];
      const x = p[u], y = p[u + 1], z = p[u + 2];
      const ex = p[v] - x, ey = p[v + 1] - y, ez = p[v + 2] - z;
      const hx = p[w] - x, hy = p[w + 1] - y, hz = p[w + 2] - z;
      const base = Math.sqrt(ex*ex + ey*ey + ez*ez);
      const tiny = 1e-4*Math.max(base, Math.sqrt(hx*hx + hy*hy + hz*hz));
      let ax = 1, ay = 0, az = 0;
      if (base > tiny) { ax = ex/base; ay = ey/base; az = ez/base; }
      let bx = ay*hz - az*hy, by = az*hx - ax*hz, bz = ax*hy - ay*hx;
      const height = Math.sqrt(bx*bx + by*by + bz*bz);
      if (height > tiny) { bx /= height; by /= height; bz /= height; }
      else [bx, by, bz] = perpendicular(ax, ay, az);
      const s = (base + height)/2;
      f[o] = s*ax; f[o + 1] = s*ay; f[o + 2] = s*az;
      f[o + 4] = s*bx; f[o + 5] = s*by; f[o + 6] = s*bz;
      f[o + 8] = s*(ay*bz - az*by); f[o + 9] = s*(az*bx - ax*bz); f[o + 10] = s*(ax*by - ay*bx);
      f[o + 3] = x + (ex + hx)/3; f[o + 7] = y + (ey + hy)/3; f[o + 11] = z + (ez + hz)/3;
    }
  }

  // Amounts of actions, by name -> expression, and the turns of jaw, left and right eye that go with them
  act(values) {
    const expression = Float32Array.from(this.names, name => values[name] || 0);
    for (const [a, b, both] of this.combinations)
      if (!expression[both]) expression[both] = expression[a]*expression[b];
    const turns = new Float32Array(9);
    expression.forEach((x, k) => { if (x) for (let i = 0; i < 9; i++) turns[i] += x*this.actionTurns[9*k + i]; });
    return {expression, turns};
  }
}

// Places of two names and of the one that joins theirs, as jawOpen and mouthClose in jawOpenMouthClose
function combinations(names) {
  const place = new Map(names.map((name, i) => [name, i])), found = [];
  for (const both of names) for (const a of names) if (both !== a && both.startsWith(a)) {
    const rest = both.slice(a.length), b = rest[0].toLowerCase() + rest.slice(1);
    if (place.has(b)) found.push([place.get(a), place.get(b), place.get(both)]);
  }
  return found;
}

// Five joints at rest, and their turns -> five times a 3 x 4 matrix, row by row
function bones(joints, turns, parents, translation) {
  const at = j => joints.slice(3*j, 3*j + 3), G = [], g = [], B = new Float64Array(60);
  for (let j = 0; j < 5; j++) {
    const p = parents[j], J = at(j);
    if (p < 0) { G[j] = turns[j]; g[j] = J; }
    else {
      const bone = apply(G[p], J.map((x, i) => x - joints[3*p + i]));
      g[j] = bone.map((x, i) => x + g[p][i]);
      G[j] = multiply(G[p], turns[j]);
    }
    const back = apply(G[j], J);
    for (let i = 0; i < 3; i++) {
      for (let k = 0; k < 3; k++) B[12*j + 4*i + k] = G[j][3*i + k];
      B[12*j + 4*i + 3] = g[j][i] - back[i] + translation[i];
    }
  }
  return B;
}

// Some unit vector at a right angle
function perpendicular(x, y, z) {
  const [a, b, c] = [x, y, z].map(Math.abs);
  const v = a <= b && a <= c ? [0, z, -y] : b <= c ? [-z, 0, x] : [y, -x, 0];
  const n = Math.hypot(...v) || 1;
  return v.map(t => t/n);
}
