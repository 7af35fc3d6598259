// What can be moved, grouped and named for people; sliders, buttons, colours.

const ANGLES = {
  yaw: ['Turn', 40], pitch: ['Nod', 30], roll: ['Tilt', 25],
  gaze_yaw: ['Sideways', 25], gaze_pitch: ['Up and down', 20]};
const GROUPS = [
  ['Head', /^(yaw|pitch|roll)$/], ['Gaze', /^(gaze_|eyeLook)/], ['Eyelids', /^eye/], ['Brows', /^brow/],
  ['Jaw and tongue', /^(jaw|tongue)/], ['Mouth', /^mouth/], ['Cheeks and nose', /^(cheek|nose)/],
  ['Expression', /./]];
const FIRST = ['jawOpen', 'mouthSmileLeft', 'mouthSmileRight'];  // in their groups
const MOST = 40;                                                // sliders in a group

const capital = text => text.replace(/^./, c => c.toUpperCase());

// jawOpen -> Open; mouthSmileLeft -> Smile, and left
export function label(name) {
  if (ANGLES[name]) return [ANGLES[name][0], ''];
  const words = name.replace(/_/g, ' ').replace(/([A-Z])/g, ' $1').toLowerCase().split(' ');
  const side = ['left', 'right'].includes(words.at(-1)) && words.length > 2 ? words.pop() : '';
  if (['brow', 'eye', 'jaw', 'mouth'].includes(words[0])) words.shift();
  return [capital(words.join(' ')), side];
}

// [title, names] of each group of a head's actions that is not empty
export function groups({names: actions, combinations}) {
  const joined = new Set(combinations.map(([, , both]) => actions[both]));
  const rest = actions.filter(a => !joined.has(a) && !FIRST.includes(a));
  const left = new Set([...Object.keys(ANGLES), ...FIRST.filter(a => actions.includes(a)), ...rest]);
  return GROUPS.map(([title, rule]) => {
    const names = [...left].filter(n => rule.test(n)).slice(0, MOST);
    names.forEach(n => left.delete(n));
    return [title, names];
  }).filter(([, names]) => names.length);
}

export const other = name =>
  name.endsWith('Left') ? name.slice(0, -4) + 'Right' : name.endsWith('Right') ? name.slice(0, -5) + 'Left' : null;

export function element(kind, attributes = {}, ...children) {
  const e = document.createElement(kind);
  for (const [k, v] of Object.entries(attributes))
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else if (v !== false) e.setAttribute(k, v === true ? '' : v);
  e.append(...children);
  return e;
}

let made = 0;  // so that ids are unique on a page with many viewers

function slider(name, changed) {
  const id = `sav-${++made}-${name}`, angle = ANGLES[name], signed = angle || name.includes('_');
  const most = angle ? angle[1] : name.includes('_') ? 3 : 1;
  const shown = element('output', {for: id});
  const input = element('input', {id, type: 'range', min: signed ? -most : 0, max: most, step: angle ? 1 : .01,
    value: 0, 'data-name': name, ondblclick: () => reset(),
    oninput: () => { show(); changed(name, Number(input.value)); }});
  const text = () => angle ? `${Math.round(input.value)}°` : signed ? Number(input.value).toFixed(1)
                                                                     : `${Math.round(100*input.value)} %`;
  const show = () => {
    shown.value = text();
    input.setAttribute('aria-valuetext', text());
    const share = x => 100*(x - input.min)/(input.max - input.min);
    const ends = [share(0), share(input.value)].sort((a, b) => a - b);
    input.style.setProperty('--from', `${ends[0]}%`);
    input.style.setProperty('--to', `${ends[1]}%`);
  };
  const reset = () => { set(0); changed(name, 0); };
  const set = value => { input.value = value; show(); };
  show();
  const [words, side] = label(name);
  const title = element('label', {for: id}, words, element('span', {class: 'sav-side'}, side && `, ${side}`));
  return {row: element('div', {class: 'sav-slider', 'data-side': side}, title, shown, input), set};
}

// The panel of a viewer; `set(values)` moves its sliders, `playing(name)` marks a button
export function panel(viewer) {
  const sliders = new Map(), buttons = new Map();
  const both = element('input', {type: 'checkbox', checked: true,
    onchange: () => node.classList.toggle('sav-paired', both.checked)});
  const changed = (name, value) => {
    const pair = both.checked ? other(name) : null;
    viewer.set(pair && sliders.has(pair) ? {[name]: value, [pair]: value} : {[name]: value});
  };
  const part = ([title, names], i) => {
    const rows = names.map(name => {
      const s = slider(name, changed);
      sliders.set(name, s);
      return s.row;
    });
    return element('details', {open: i === 0 || title.startsWith('Jaw')}, element('summary', {}, title), ...rows);
  };
  const play = name => {
    const b = element('button', {type: 'button', 'aria-pressed': 'false', 'data-play': name,
      onclick: () => viewer.play(viewer.playing === name ? null : name)}, capital(name));
    buttons.set(name, b);
    return b;
  };
  const film = element('button', {type: 'button', 'aria-pressed': 'false', title: 'Record a film of what is seen',
    onclick: () => viewer.record()}, 'Record');
  const paired = viewer.head.names.some(other);
  const button = (text, title, onclick) => element('button', {type: 'button', title, onclick}, text);
  const {title, faces, arrays} = viewer.data;
  const count = `${arrays.triangle.length.toLocaleString('en')} Gaussians`;
  const row = (name, buttons) => buttons.length ? [element('p', {class: 'sav-heading'}, name),
    element('div', {class: 'sav-row', role: 'group', 'aria-label': name}, ...buttons)] : [];
  const node = element('div', {class: 'sav-panel sav-paired'},
    element('header', {class: 'sav-name'}, element('strong', {}, title), element('span', {}, count)),
    ...row('Movements', viewer.motions.names.map(play)),
    ...row('Faces', Object.entries(faces).map(([name, values]) =>
      button(capital(name), 'Where the sliders stand for it', () => viewer.face(values)))),
    element('div', {class: 'sav-row sav-quiet', role: 'group', 'aria-label': 'Picture'},
      ...backgrounds(viewer),
      film, button('Save', 'Save a PNG of what is seen', () => viewer.save())),
    element('div', {class: 'sav-both'},
      ...paired ? [element('label', {}, both, 'Left and right together')] : [],
      button('Reset', 'The face at rest, seen from the front', () => viewer.reset())),
    ...groups(viewer.head).map(part));
  return {node,
    set: values => sliders.forEach((s, name) => s.set(values[name] || 0)),
    playing: name => buttons.forEach((b, n) => b.setAttribute('aria-pressed', String(n === name))),
    recording: on => film.setAttribute('aria-pressed', String(on)),
    background: colour => node.querySelectorAll('[data-background]').forEach(i => {
      i.checked = i.dataset.background === (colour || '');
    })};
}

export const BACKGROUNDS = {Studio: null, Dark: '#17181b', White: '#ffffff', Green: '#00b140'};

function backgrounds(viewer) {
  const group = `sav-background-${++made}`;
  return Object.entries(BACKGROUNDS).map(([name, colour]) => {
    const title = `${name} background`;
    const input = element('input', {type: 'radio', name: group, 'aria-label': title,
      'data-background': colour || '', onchange: () => viewer.setBackground(colour)});
    const shown = element('span', {style: `background:${colour || 'radial-gradient(#f2f2f3,#8d9095)'}`});
    return element('label', {class: 'sav-swatch', title}, input, shown);
  });
}
