// Movements that came with the avatar: frames of columns, read at any time.

export class Motions {
  constructor({motions, arrays}) {
    Object.assign(this, {motions, arrays});
    this.names = Object.keys(motions);
  }

  seconds(name) { return this.motions[name].frames/this.motions[name].fps; }

  // Values by column (names of actions; jaw0, neck0, ... for the turns), between the frames around that time
  at(name, seconds) {
    const {fps, frames, columns} = this.motions[name], values = this.arrays[`motion ${name}`];
    const u = Math.min(Math.max(seconds*fps, 0), frames - 1), i = Math.floor(u), j = Math.min(i + 1, frames - 1);
    const n = columns.length, found = {};
    columns.forEach((c, k) => { found[c] = values[n*i + k] + (u - i)*(values[n*j + k] - values[n*i + k]); });
    return found;
  }
}

export const vector = (values, name, from = 0) => [0, 1, 2].map(i => values[name + (from + i)] || 0);
