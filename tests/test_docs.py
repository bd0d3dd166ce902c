"""What the README and docs/ name is there: paths, commands, flags, macros, functions."""

import ast
import contextlib
import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import pytest

from calm import commands, t5x_names
from calm.arguments import split_gin_arguments

ROOT = Path(__file__).parent.parent
PAGES = {
  path.relative_to(ROOT).as_posix(): path.read_text(encoding='utf-8')
  for path in (*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'))
}
# What a reader is to do, and not what was done once.
GUIDES = {name: text for name, text in PAGES.items() if name != 'CHANGELOG.md'}
GIN = '\n'.join(
  path.read_text(encoding='utf-8')
  for folder in ('gin', 'configs')
  for path in (ROOT / folder).rglob('*.gin')
)
MACROS = {*re.findall(r'^([A-Z][A-Z0-9_]*) =', GIN, re.MULTILINE), *re.findall(r'%([A-Z]\w*)', GIN)}
PROGRAMS = {
  path.parent.name: importlib.import_module(f'{path.parent.name}.main').PROGRAM
  for path in ROOT.glob('*/main.py')
}
# What pages call their own, as in `RULE = @my_exits.LateStart()`.
OWN = re.compile(r'\bmy_\w+')


def blocks(text, *languages):
  """The fenced code of a page, of these languages ('' for those that name none)."""
  found = re.findall(r'^```(\w*)\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
  return [code for language, code in found if language in languages]


def inline(text):
  """Code within the sentences of a page; it may run over the end of a line."""
  without = re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL)
  return [' '.join(code.split()) for code in re.findall(r'`([^`]+)`', without)]


def command_lines(text):
  """The commands of a page's bash blocks, each on a line, without what is piped into them."""
  joined = '\n'.join(blocks(text, 'bash')).replace('\\\n', ' ')
  for line in joined.splitlines():
    found = re.search(
      rf'(?:^|\| |\s)((?:\.venv/bin/)?(?:{"|".join(PROGRAMS)}|python) |bash )(.*)', line
    )
    if found:
      yield found[1].strip().removeprefix('.venv/bin/'), shlex.split(found[2], comments=True)


def of_pages(find, pages=GUIDES):
  """(page, what was found) for all that `find` finds in a page."""
  return [(name, found) for name, text in pages.items() for found in find(text)]


CALLS = [
  (name, program, arguments)
  for name, (program, arguments) in of_pages(command_lines)
  if program in PROGRAMS
]
CALLS += [
  (name, code.split()[0], code.split()[1:])
  for name, code in of_pages(inline)
  if ' ' in code and code.split()[0] in PROGRAMS
]
SCRIPTS = [
  (name, arguments)
  for name, (program, arguments) in of_pages(command_lines)
  if program not in PROGRAMS
]


def test_the_readme_is_short_and_leads_to_every_page():
  assert len(PAGES['README.md'].splitlines()) <= 180
  reached, waiting = set(), ['README.md']
  while waiting:
    page = waiting.pop()
    reached.add(page)
    for link in re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', PAGES.get(page, '')):
      target = (ROOT / page).parent / link
      assert target.exists(), f'{page}: {link}'
      name = target.resolve().relative_to(ROOT.resolve()).as_posix()
      if name not in reached:
        waiting.append(name)
  assert PAGES.keys() <= reached


@pytest.mark.parametrize('page', GUIDES)
def test_every_path_is_there(page):
  texts = [*inline(GUIDES[page]), *blocks(GUIDES[page], 'bash', '', 'python')]
  paths = [
    path for text in texts for path in re.findall(r'(?<![\w./-])((?:[\w*-]+/)+[\w*.-]*)', text)
  ]
  folders = {'calm', 'configs', 'docs', 'gin', 'scripts', 'sweet', 'elang', 'tests'}
  ours = [path for path in paths if path.partition('/')[0] in folders]
  missing = [path for path in ours if not any(ROOT.glob(path.rstrip('/.')))]
  assert missing == []


@pytest.mark.parametrize(('page', 'program', 'arguments'), CALLS)
def test_every_command_and_flag_is_known(page, program, arguments):
  arguments = [argument for argument in arguments if argument != '...']
  # A name alone, or a flag without its value, is spoken of and not called.
  others, _ = split_gin_arguments(arguments)
  if others and others[0] != 'COMMAND':
    ended = contextlib.suppress(SystemExit) if {'--help', '--version'} & {*others} else None
    with ended or contextlib.nullcontext():
      commands.make_parser(PROGRAMS[program]).parse_args(others)
  for file in (one.partition('=')[2] for one in others if one.startswith('--gin_file=')):
    mine = file.startswith('runs/') or '/' not in file
    assert mine or (ROOT / file).is_file(), file


@pytest.mark.parametrize(('page', 'arguments'), SCRIPTS)
def test_every_script_and_its_flags_are_there(page, arguments):
  script, *flags = arguments
  if script == '-m':
    assert importlib.util.find_spec(flags[0])
    return
  source = (ROOT / script).read_text(encoding='utf-8')
  for name in re.findall(r'^(?:from|import) (\w+)', source, re.MULTILINE):
    beside = ROOT / 'scripts' / f'{name}.py'
    source += beside.read_text(encoding='utf-8') if beside.is_file() else ''
  for flag in flags:
    if flag.startswith('--'):
      assert f"'{flag.partition('=')[0]}'" in source, flag


def bindings(text):
  """(name, value) of all that a page sets: by flags, in gin blocks, and in sentences."""
  for _, arguments in command_lines(text):
    for binding in split_gin_arguments(arguments)[1]:
      yield tuple(binding.split(' = ', 1))
  for code in blocks(text, ''):
    scope = ''
    for line in code.splitlines():
      if found := re.match(r'( *)([\w.]+)(?: = (.*)|:)$', line):
        if found[3] is None:
          scope = f'{found[2]}.'
        else:
          yield (scope if found[1] else '') + found[2], found[3]
  for code in inline(text):
    yield from re.findall(r'--gin\.([\w.]+)=(\S+)', code)
    if found := re.fullmatch(r'([\w.]+) = (.*)', code):
      yield found[1], found[2]


def resolve(name):
  """The function or class that gin's 'module.name' stands for."""
  module, _, rest = name.partition('.')
  places = [path for name in PROGRAMS for path in (ROOT / name).rglob(f'{module}.py')]
  paths = [path.relative_to(ROOT) for path in places]
  modules = [importlib.import_module('.'.join(path.with_suffix('').parts)) for path in paths]
  return next(getattr(one, rest) for one in modules if hasattr(one, rest))


@pytest.mark.parametrize(('page', 'binding'), of_pages(bindings))
def test_every_macro_parameter_and_reference_is_there(page, binding):
  name, value = binding
  if name.isidentifier():
    assert name in MACROS | {*t5x_names.RENAMED, 'NAME'}
  elif not OWN.match(name):
    function, _, parameter = name.rpartition('.')
    assert parameter in inspect.signature(resolve(function)).parameters
  for reference in re.findall(r'@([\w.]+)', value):
    assert OWN.match(reference) or resolve(reference)


@pytest.mark.parametrize('page', sorted(GUIDES.keys() - {'CONTRIBUTING.md'}))
def test_every_name_in_capitals_is_a_macro(page):
  named = {
    code for code in inline(GUIDES[page]) if re.fullmatch(r'[A-Z][A-Z0-9]*(_[A-Z0-9]+)*', code)
  }
  unknown = named - MACROS - {*t5x_names.RENAMED, *t5x_names.ANSWERED}
  assert {name for name in unknown if not name.startswith('JAX_')} == set()


@pytest.mark.parametrize(('page', 'code'), of_pages(lambda text: blocks(text, 'python')))
def test_python_on_a_page_is_python(page, code):
  compile(code, page, 'exec')


def used(code):
  """('package.module', 'name') of all that Python code takes from modules that it imports."""
  nodes = list(ast.walk(ast.parse(code)))
  modules = {}
  for node in nodes:
    if isinstance(node, ast.ImportFrom):
      modules |= {one.asname or one.name: (node.module, one.name) for one in node.names}
  yield from modules.values()
  for node in nodes:
    name = getattr(node.value, 'id', None) if isinstance(node, ast.Attribute) else None
    if name in modules:
      yield '.'.join(modules[name]), node.attr


@pytest.mark.parametrize(
  ('module', 'name'),
  sorted({one for _, code in of_pages(lambda text: blocks(text, 'python')) for one in used(code)}),
)
def test_what_python_on_a_page_takes_from_a_module_is_there(module, name):
  found = importlib.import_module(module)
  assert hasattr(found, name) or importlib.util.find_spec(f'{module}.{name}')
