// The page of a served router: asks /api/answer for all its inputs at once whenever the knob or the
// inputs change.

import { ALL_KEPT, NONE_KEPT, at, make, show, showKnob, state, written } from './view.js';

async function request(path, options) {
  let response, said;
  try {
    response = await fetch(path, options);
    said = await response.json();
  } catch {
    throw new Error('The server does not answer: is it still running?');
  }
  if (!response.ok) throw Object.assign(new Error(said.error), { status: response.status });
  return said;
}

// Asks about all inputs at the threshold; one question at a time, the last one always asked.
async function ask() {
  if (state.busy) {
    state.again = true;
    return;
  }
  state.busy = true;
  do {
    state.again = false;
    const inputs = [...state.inputs];
    try {
      const question = { inputs, threshold: state.threshold };
      const said = inputs.length
        ? await request('/api/answer', {
            method: 'POST',
            headers: { 'Content-Type': 'application/json' },
            body: JSON.stringify(question),
          })
        : { answers: [] };
      if (state.again) continue;
      state.answers = said.answers.map((answer, i) => ({ ...answer, input: inputs[i] }));
      at('problem').textContent = '';
      show();
    } catch (error) {
      at('problem').textContent = error.message;
      // What cannot be answered is not asked again with the next.
      const hopeless = error.status && error.status !== 503;
      if (hopeless && !state.again) state.inputs = state.answers.map(answer => answer.input);
    }
  } while (state.again);
  state.busy = false;
}

function add(inputs) {
  const limits = state.router.limits;
  state.inputs = [...inputs, ...state.inputs].slice(0, limits.inputs);
  const size = () => new TextEncoder().encode(JSON.stringify(state.inputs)).length + 100;
  while (state.inputs.length > 1 && size() > limits.body_bytes) state.inputs.pop();
  ask();
}

state.remove = index => {
  state.inputs.splice(index, 1);
  at('fields').querySelector('textarea').focus();
  ask();
};

function addFields() {
  const names = state.router.fields;
  for (const name of names) {
    const label = make('label', '', names.length > 1 ? name : 'Your text');
    const area = written('textarea');
    area.id = `field-${name}`;
    area.name = name;
    area.maxLength = state.router.limits.letters;
    label.htmlFor = area.id;
    area.addEventListener('keydown', event => {
      if (event.key === 'Enter' && !event.shiftKey) {
        event.preventDefault();
        at('question').requestSubmit();
      }
    });
    at('fields').append(label, area);
  }
}

function addExamples() {
  const examples = state.router.examples;
  at('picking').hidden = !examples.length;
  examples.forEach((example, i) => {
    const text = Object.values(example).join(' | ');
    const option = written('option', '', text.length > 80 ? `${text.slice(0, 79)}…` : text);
    option.value = i;
    at('pick').append(option);
  });
  at('all').textContent = `all ${examples.length}`;
  at('all').addEventListener('click', () => add(examples));
  at('pick').addEventListener('change', event => {
    const chosen = event.target.value;
    event.target.value = '';
    if (chosen !== '') add([examples[Number(chosen)]]);
  });
}

function turn(threshold) {
  state.threshold = threshold;
  showKnob();
  ask();
}

function listen() {
  at('question').addEventListener('submit', event => {
    event.preventDefault();
    const areas = [...at('fields').querySelectorAll('textarea')];
    if (!areas.some(area => area.value.trim())) return;
    add([Object.fromEntries(areas.map(area => [area.name, area.value]))]);
    areas[0].select();
  });
  at('knob').addEventListener('input', event => {
    const { value, min, max } = event.target;
    if (state.router.path) turn(Number(value));
    else if (value === max) turn(NONE_KEPT);
    else turn(value === min ? ALL_KEPT : Number(value));
  });
  at('exact').addEventListener('change', event => {
    if (event.target.value !== '') turn(Number(event.target.value));
  });
  at('clear').addEventListener('click', () => {
    state.inputs = [];
    at('fields').querySelector('textarea').focus();
    ask();
  });
}

async function begin() {
  try {
    state.router = await request('/api/router');
  } catch (error) {
    at('problem').textContent = error.message;
    return;
  }
  const { models, threshold, path } = state.router;
  document.title = `${models.join(', ')} · E-LANG`;
  at('introduction').textContent =
    `Each input is answered by the cheapest model that is sure of it: ${models.join(', then ')}.`;
  at('left').textContent = `${models[0]} keeps all`;
  at('right').textContent = 'all passed on';
  if (threshold !== null) state.threshold = threshold;
  else if (path) state.threshold = 1;
  addFields();
  addExamples();
  listen();
  show();
}

begin();
