// Gaussians on triangles, on the GPU: the mathematics of spatialavatar0.splat.reference.

import {TRIANGLES_A_ROW} from './head.js';
import {ORDER_A_ROW} from './sort.js';

export const NEAR = .01;       // metres; what is nearer is not drawn
const SPLATS_A_ROW = 512;      // of the texture of Gaussians; four texels each

const VERTEX = `#version 300 es
precision highp float; precision highp int; precision highp sampler2D; precision highp usampler2D;
uniform sampler2D frames, splats;
uniform usampler2D order;      // which Gaussian is drawn when
uniform mat3 R;                // world to camera, x right, y down, z forward
uniform vec3 t;
uniform vec2 focal, centre, size, lowest, highest;
flat out vec4 colour;
out vec2 place;

vec4 frame(int i, int k) { return texelFetch(frames, ivec2(3*(i % ${TRIANGLES_A_ROW}) + k, i/${TRIANGLES_A_ROW}), 0); }
vec4 splat(int i, int k) { return texelFetch(splats, ivec2(4*(i % ${SPLATS_A_ROW}) + k, i/${SPLATS_A_ROW}), 0); }

void main() {
  int n = gl_VertexID >> 2, corners = gl_VertexID & 3;
  int i = int(texelFetch(order, ivec2(n % ${ORDER_A_ROW}, n/${ORDER_A_ROW}), 0).r);
  vec4 local = splat(i, 0), c0 = splat(i, 1), c1 = splat(i, 2);
  colour = splat(i, 3);
  int k = int(local.w);
  vec4 f0 = frame(k, 0), f1 = frame(k, 1), f2 = frame(k, 2);
  mat3 A = R*mat3(f0.xyz, f1.xyz, f2.xyz);               // the triangle's frame, seen by the camera
  vec3 p = A*local.xyz + R*vec3(f0.w, f1.w, f2.w) + t;
  vec2 slope = p.xy/p.z, u = clamp(slope, lowest, highest);
  mat3 rows = transpose(A);
  vec3 m0 = focal.x/p.z*(rows[0] - u.x*rows[2]), m1 = focal.y/p.z*(rows[1] - u.y*rows[2]);
  mat3 S = mat3(c0.x, c0.y, c0.z, c0.y, c0.w, c1.x, c0.z, c1.x, c1.y);
  vec3 s0 = S*m0;
  float a = dot(m0, s0) + .3, b = dot(m1, s0), c = dot(m1, S*m1) + .3;  // .3: a low-pass, pixels squared
  float middle = .5*(a + c), apart = length(vec2(.5*(a - c), b));
  vec2 axis = apart < 1e-6*middle ? vec2(1, 0) : a > c ? normalize(vec2(.5*(a - c) + apart, b))
                                                      : normalize(vec2(b, .5*(c - a) + apart));
  vec2 reach = sqrt(2.*log(colour.a*255.)*vec2(middle + apart, max(middle - apart, .29)));
  vec2 corner = vec2(corners & 1, corners >> 1)*2. - 1.;
  place = corner*sqrt(2.*log(colour.a*255.));
  vec2 xy = focal*slope + centre + corner.x*reach.x*axis + corner.y*reach.y*vec2(-axis.y, axis.x);
  gl_Position = vec4((2.*xy/size - 1.)*vec2(1, -1), 0, 1);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
flat in vec4 colour;
in vec2 place;
out vec4 light;
void main() {
  float alpha = colour.a*exp(-.5*dot(place, place));
  if (alpha < 1./255.) discard;
  light = vec4(colour.rgb*alpha, alpha);
}`;

function program(gl) {
  const p = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(p, shader);
  }
  gl.linkProgram(p);
  if (!gl.getProgramParameter(p, gl.LINK_STATUS) && !gl.isContextLost())
    throw new Error([gl.getProgramInfoLog(p), ...gl.getAttachedShaders(p).map(s => gl.getShaderInfoLog(s))].join('\n'));
  return p;
}

function texture(gl, unit, width, height, format = gl.RGBA32F) {
  gl.activeTexture(gl.TEXTURE0 + unit);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  for (const k of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, k, gl.NEAREST);
  gl.texStorage2D(gl.TEXTURE_2D, 1, format, width, height);
}

// Two triangles on the four corners of each Gaussian. Not an instance each: those are slow where they are small
function quads(count) {
  const index = new Uint32Array(6*count);
  for (let i = 0, v = 0; i < index.length; i += 6, v += 4) index.set([v, v + 1, v + 2, v + 2, v + 1, v + 3], i);
  return index;
}

export class Splats {
  constructor(gl, {arrays}, head) {
    this.gl = gl;
    const {rows, count} = table(arrays, this);
    gl.useProgram(this.program = program(gl));
    this.at = name => gl.getUniformLocation(this.program, name);
    texture(gl, 0, 3*TRIANGLES_A_ROW, head.rows);
    texture(gl, 1, 4*SPLATS_A_ROW, rows.length/(16*SPLATS_A_ROW));
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, 4*SPLATS_A_ROW, rows.length/(16*SPLATS_A_ROW), gl.RGBA, gl.FLOAT, rows);
    texture(gl, 2, ORDER_A_ROW, Math.max(Math.ceil(count/ORDER_A_ROW), 1), gl.R32UI);
    ['frames', 'splats', 'order'].forEach((name, unit) => gl.uniform1i(this.at(name), unit));
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, quads(count), gl.STATIC_DRAW);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);  // premultiplied, from back to front
  }

  // After the head has moved
  move(head) {
    const {gl} = this;
    gl.activeTexture(gl.TEXTURE0);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, 3*TRIANGLES_A_ROW, head.rows, gl.RGBA, gl.FLOAT, head.frames);
  }

  // `count` Gaussians in their order, as the camera sees them, over a background (r, g, b, alpha)
  draw(camera, order, count, background) {
    const {gl, at} = this, {width, height, R, t, focal, centre} = camera, [r, g, b, a] = background;
    const slope = (i, share) => (share*[width, height][i] - centre[i])/focal[i];
    gl.viewport(0, 0, width, height);
    gl.clearColor(r*a, g*a, b*a, a);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniformMatrix3fv(at('R'), true, R);
    gl.uniform3fv(at('t'), t);
    gl.uniform2fv(at('focal'), focal);
    gl.uniform2fv(at('centre'), centre);
    gl.uniform2f(at('size'), width, height);
    gl.uniform2f(at('lowest'), slope(0, -.15), slope(1, -.15));
    gl.uniform2f(at('highest'), slope(0, 1.15), slope(1, 1.15));
    gl.activeTexture(gl.TEXTURE2);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ORDER_A_ROW, order.length/ORDER_A_ROW,
                     gl.RED_INTEGER, gl.UNSIGNED_INT, order);
    gl.drawElements(gl.TRIANGLES, 6*count, gl.UNSIGNED_INT, 0);
  }
}

// The texels of all Gaussians that can be seen at all; their places and triangles stay, for the sorter
function table({xyz, quaternion, log_scale, colour, opacity, triangle}, splats) {
  const seen = [];
  for (let i = 0; i < opacity.length; i++) if (opacity[i] >= 1/255) seen.push(i);
  const rows = new Float32Array(16*SPLATS_A_ROW*Math.ceil(Math.max(seen.length, 1)/SPLATS_A_ROW));
  splats.xyz = new Float32Array(3*seen.length);
  splats.triangle = new Uint32Array(seen.length);
  seen.forEach((i, n) => {
    const o = 16*n, x = xyz.subarray(3*i, 3*i + 3);
    splats.xyz.set(x, 3*n);
    splats.triangle[n] = triangle[i];
    rows.set(x, o);
    rows[o + 3] = triangle[i];
    covariance(quaternion, log_scale, i, rows, o + 4);
    rows.set(colour.subarray(3*i, 3*i + 3), o + 12);
    rows[o + 15] = Math.min(opacity[i], .999);
  });
  return {rows, count: seen.length};
}

// Six numbers of R S S R', where R turns by the i-th quaternion and S scales
function covariance(quaternion, logScale, i, out, o) {
  let [w, x, y, z] = quaternion.subarray(4*i, 4*i + 4);
  const n = Math.hypot(w, x, y, z) || 1;
  w /= n; x /= n; y /= n; z /= n;
  const R = [1 - 2*(y*y + z*z), 2*(x*y - w*z), 2*(x*z + w*y),
             2*(x*y + w*z), 1 - 2*(x*x + z*z), 2*(y*z - w*x),
             2*(x*z - w*y), 2*(y*z + w*x), 1 - 2*(x*x + y*y)];
  const s = [0, 1, 2].map(k => Math.exp(2*logScale[3*i + k]));
  const entry = (a, b) => R[3*a]*R[3*b]*s[0] + R[3*a + 1]*R[3*b + 1]*s[1] + R[3*a + 2]*R[3*b + 2]*s[2];
  [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 2]].forEach(([a, b], k) => { out[o + k] = entry(a, b); });
}
