// The bytes of an avatar, as spatialavatar0.drive.web packs them:
// "SAW1", the length of a JSON text, that text, and arrays, each on a multiple of four bytes.

const KINDS = {u8: Uint8Array, u16: Uint16Array, u32: Uint32Array, f32: Float32Array};

// ArrayBuffer, typed array or DataView -> the header, with `arrays` by name, numbers as they were meant
export function unpack(bytes) {
  const from = bytes.buffer ? bytes.byteOffset : 0;
  const buffer = (bytes.buffer || bytes).slice(from, from + bytes.byteLength);
  const magic = String.fromCharCode(...new Uint8Array(buffer, 0, 4));
  if (magic !== 'SAW1') throw new Error('this is not an avatar for the web');
  const length = new DataView(buffer).getUint32(4, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const arrays = {};
  for (const [name, a] of Object.entries(header.arrays)) {
    const size = a.shape.reduce((x, y) => x*y, 1);
    const stored = new KINDS[a.kind](buffer, a.offset, size);
    arrays[name] = a.step ? dequantize(stored, a.lo, a.step) : stored;
  }
  return {...header, arrays};
}

// Whole numbers q in columns -> lo + step q
function dequantize(q, lo, step) {
  const x = new Float32Array(q.length), columns = lo.length;
  for (let i = 0, c = 0; i < q.length; i++) {
    x[i] = lo[c] + step[c]*q[i];
    if (++c === columns) c = 0;
  }
  return x;
}
