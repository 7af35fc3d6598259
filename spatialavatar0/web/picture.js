// A picture that the kernel makes, and the mouse, fingers and keys that say from where.

import {Orbit, handle} from './camera.js';

const PATIENCE = 1000;  // milliseconds; after them the next view goes though no picture came

function render({model, el}) {
  const canvas = document.createElement('canvas'), pen = canvas.getContext('2d'), ending = new AbortController();
  canvas.tabIndex = 0;
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', `${model.get('label')}. Drag or use the arrow keys to go around, ` +
    'plus and minus to zoom, 0 to go back.');
  canvas.setAttribute('data-lm-suppress-shortcuts', '');
  canvas.className = 'sav-picture';
  canvas.style.maxWidth = `${model.get('size')}px`;
  const orbit = new Orbit(model.get('view'));
  let waits = false, moved = false, late = 0, shown = 0;

  // One view at a time: the next goes when the picture of the last has come
  const send = () => {
    if (waits) { moved = true; return; }
    const {yaw, pitch, distance, target} = orbit;
    [waits, moved] = [true, false];
    model.set('view', {...model.get('view'), yaw, pitch, distance, target});
    model.save_changes();
    late = setTimeout(answered, PATIENCE);
  };
  const answered = () => {
    clearTimeout(late);
    waits = false;
    if (moved) send();
  };
  const show = async () => {
    const mine = ++shown, bytes = model.get('value');
    if (!bytes?.byteLength) return;
    const bitmap = await createImageBitmap(new Blob([bytes]));
    if (mine !== shown) return;
    Object.assign(canvas, {width: bitmap.width, height: bitmap.height});
    pen.drawImage(bitmap, 0, 0);
    canvas.dataset.shown = mine;
    answered();
  };
  const follow = () => { if (!waits) Object.assign(orbit, model.get('view')); };

  handle(canvas, orbit, send, ending.signal);
  model.on('change:value', show);
  model.on('change:view', follow);
  follow();
  show();
  el.append(canvas);
  return () => {
    clearTimeout(late);
    ending.abort();
    model.off('change:value', show);
    model.off('change:view', follow);
  };
}

export default {render};
