"""The code's budgets and arrows (docs/architecture.md), as functions for test_budgets.py.

Each takes a path and a text, or a folder, and returns what is wrong, one line each.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter

CPP_SUFFIXES = {".h", ".cuh", ".cu", ".cpp"}
MAX_FILE, MAX_FUNCTION, MAX_KERNEL, MAX_COLUMNS, MAX_MACRO = 400, 60, 120, 100, 5
JUNK_DRAWERS = {"utils", "util", "common", "helpers", "helper"}


def line_of(text, position):
    return text.count("\n", 0, position) + 1


# ---- any language ----


def check_shape(path, text):
    lines = text.splitlines()
    faults = [f"{path}:{MAX_FILE}: {len(lines)} lines"] if len(lines) > MAX_FILE else []
    faults += [
        f"{path}:{n}: {len(s)} columns" for n, s in enumerate(lines, 1) if len(s) > MAX_COLUMNS
    ]
    if path.stem in JUNK_DRAWERS:
        faults.append(f"{path}:1: name the file for its content")
    return faults


# ---- Python ----

# A comment that only applies one of these to letters is an equation, not code.
MATHS = set("tanh sigmoid softmax relu exp log sqrt sum max min abs cos sin a".split())
KNOWN_MODULES = {*sys.stdlib_module_names, "torch", "numpy", "pytest", "fastcells"}


def check_python_functions(path, text):
    """A docstring is documentation: it does not count."""
    faults = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        length = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node, clean=False) is not None:
            length -= node.body[0].end_lineno - node.body[0].lineno + 1
        if length > MAX_FUNCTION:
            faults.append(f"{path}:{node.lineno}: {node.name} has {length} lines")
    return faults


def is_python_code(comment):
    """Whether a comment is a statement that someone switched off. In doubt it is prose."""
    try:
        body = ast.parse(comment).body
    except (SyntaxError, ValueError):
        return False
    if len(body) != 1:
        return False
    statement, nodes = body[0], list(ast.walk(body[0]))
    if isinstance(statement, ast.Import):  # but not "import order"
        names = [alias.name.split(".")[0] for alias in statement.names]
        return all(name in KNOWN_MODULES for name in names)
    if isinstance(statement, ast.ImportFrom):
        return True
    if not isinstance(statement, (ast.Expr, ast.Assign, ast.AugAssign, ast.Return, ast.Raise)):
        return False
    if isinstance(statement, ast.Expr) and not re.match(r"[\w.]+\(", comment):
        return False  # "x_gates (T, B, G, H)" is a shape
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    return any(not isinstance(name, ast.Name) or name.id not in MATHS for name in calls)


def check_python_comments(path, text):
    faults = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        alone = token.line[: token.start[1]].strip() == ""
        if token.type == tokenize.COMMENT and alone and is_python_code(token.string[1:].strip()):
            faults.append(f"{path}:{token.start[0]}: commented-out code: {token.string}")
    return faults


# ---- C++ ----

LITERAL = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<![0-9])\'(?:\\.|[^\'\\\n])+\'',
    re.DOTALL,
)
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
SCOPE = re.compile(
    r"\s*(template\s*<.*>\s*)?(inline\s+)?(namespace|class|struct|union|enum)\b", re.S
)
INITIALISER = re.compile(r"\b(?!(?:const|noexcept|override|final|mutable|try)\s*$)\w+\s*$")
TYPE = (
    r"(?:const|constexpr|static|auto|int|long|float|double|bool|char|unsigned|size_t|\w+_t"
    r"|\w+(?:::\w+)+|\w+<[^>]*>)[*&]*\s+"
)
CPP_CODE = [
    re.compile(rf"(?:{TYPE})*[*\w.\[\]>-]+\s*[-+*/|&^]?=[^=].*;$"),  # x = y;
    re.compile(r"[\w:.<>-]+\([^()]*(?:\([^()]*\)[^()]*)*\);$"),  # f(x);
    re.compile(r"return\s[^;]*[(\[*+/=<>-][^;]*;$"),
    re.compile(r"(?:if|for|while|switch) ?\(.*\) ?\{$|\} ?else\b.*\{$"),
    re.compile(r"#\s*include\s*[<\"]|#\s*define\s+[A-Z_]+\b"),
]


def blank(text):
    return re.sub(r"[^\n]", " ", text)


def bare_cpp(text):
    """The text with comments, literals and preprocessor lines blanked, every line in its place."""
    text = LITERAL.sub(lambda match: blank(match.group()), text)
    return DIRECTIVE.sub(lambda match: blank(match.group()), text)


def closing_brace(text, opening):
    depth = 0
    for match in re.finditer(r"[{}]", text[opening:]):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return opening + match.start()
    return len(text)


def cpp_functions(text):
    """(head, first line, number of lines) of each function that stands outside other functions."""
    text, functions = bare_cpp(text), []
    position = start = 0
    while match := re.compile(r"[{};]").search(text, position):
        position = match.end()
        head = text[start : match.start()]
        if match.group() != "{" or SCOPE.match(head) or "(" not in head:
            start = position
            continue
        end = closing_brace(text, match.start())
        position = end + 1
        after_arrow = "->" in head[head.rfind(")") :]
        if INITIALISER.search(head) and not after_arrow:
            continue  # `Type() : member{0} {`: the body comes later
        first = line_of(text, start + len(head) - len(head.lstrip()))
        functions.append((head.strip(), first, line_of(text, end) - first + 1))
        start = position
    return functions


def check_cpp_functions(path, text):
    faults = []
    for head, line, length in cpp_functions(text):
        name = re.search(r"[\w~]+(?=\s*\()", head)
        if length > (MAX_KERNEL if "__global__" in head else MAX_FUNCTION):
            faults.append(f"{path}:{line}: {name.group() if name else head} has {length} lines")
    return faults


def check_cpp_lines(path, text):
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*#\s*if\s+0\b", line):
            faults.append(f"{path}:{number}: #if 0")
        comment = re.match(r"\s*//+\s*(.*?)\s*$", line)
        if comment and any(code.match(comment.group(1)) for code in CPP_CODE):
            faults.append(f"{path}:{number}: commented-out code: {comment.group(1)}")
    for match in DIRECTIVE.finditer(text):
        body = match.group().split("\n")
        lines = len(body) - bool(re.match(r"\s*#\s*define\s+\w+(\([^)]*\))?\s*\\$", body[0]))
        if lines > MAX_MACRO:
            faults.append(f"{path}:{line_of(text, match.start())}: a macro body of {lines} lines")
    return faults


# ---- both ----

PYTHON_CHECKS = [check_shape, check_python_functions, check_python_comments]
CPP_CHECKS = [check_shape, check_cpp_functions, check_cpp_lines]


def faults_of(path, text):
    checks = PYTHON_CHECKS if path.suffix == ".py" else CPP_CHECKS
    return [fault for check in checks for fault in check(path, text)]


# ---- arrows ----

# What nvcc compiles, or a C++ test links alone.
TORCH_FREE = re.compile(
    r"(math|cpu/simd|recurrent/cells)/"
    r"|(recurrent|recurrent/elementwise|recurrent/rowwise|attention|scan)/cpu/kernels/"
    r"|recurrent/rowwise/noise\.h$"
    r"|(storage|host_device|rows)\.h$|attention/(args|position)\.h$|scan/args\.h$"
    r"|recurrent/stepwise/(step_|stages)|recurrent/(cpu|cuda|elementwise/cpu)/plan\."
    r"|scan/cpu/plan\.|.*\.(cuh|cu)$"
)
TORCH_HEADER = re.compile(r"(torch|ATen|c10|pybind11)/|Python\.h$")
CUDA_HEADER = re.compile(r"(cuda(?!/plan\.h$)|cublas|curand|cooperative_groups|mma\.h)")
PYTHON_HEADER = re.compile(r"pybind11/|Python\.h$|torch/csrc/.*(python|pybind)")
TOPICS = ("recurrent", "attention", "scan")
#: (files, what none of them may include, why); a rule that matches no file is a fault itself.
CPP_ARROWS = [
    (TORCH_FREE, TORCH_HEADER, "is to be torch-free"),
    (re.compile(r"recurrent/cuda/plan\."), CUDA_HEADER, "knows no CUDA header"),
    (
        re.compile(r"(?!bindings\.cpp|python_tensors\.|(recurrent|attention|scan)/at_once\.)"),
        PYTHON_HEADER,
        "knows no Python",
    ),
    *(
        (
            re.compile(rf"{topic}/"),
            re.compile(rf"({'|'.join(other for other in TOPICS if other != topic)})/"),
            "topics stand side by side",
        )
        for topic in TOPICS
    ),
    (
        re.compile(r"(cpu|cuda|math)/|(storage|host_device|rows|checks|op_scope)\.h$"),
        re.compile(rf"({'|'.join(TOPICS)})/"),
        "device floors know no topic",
    ),
]
# Who may import whom; a file that is not here (explain, testing, __init__) may import anything.
IMPORTS = {
    "equations": {"layers", "functional", "checks", "ops", "reference", "_extension"},
    "layers": {"functional", "checks"},
    "functional": {"checks", "ops", "reference"},
    "ops": {"_extension"},
    "checks": set(),
    "reference": set(),
    "_extension": set(),
}


def includes_of(csrc, path):
    """(header, line) of every #include, and the files of csrc that they name."""
    found = re.finditer(
        r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text("utf-8"), re.MULTILINE
    )
    headers = [match.group(1) for match in found]
    candidates = [[path.parent / name, csrc / name] for name in headers]
    return headers, [next((p for p in pair if p.is_file()), None) for pair in candidates]


def check_includes(csrc, path, forbidden):
    """The forbidden headers that a file includes, itself or through another file of csrc."""
    faults, seen = [], {path.resolve()}
    waiting = [(path,)]  # chains of files, each included by the one before
    for chain in waiting:
        for header, file in zip(*includes_of(csrc, chain[-1]), strict=True):
            if forbidden.match(header):
                faults.append(f"{' -> '.join(map(str, chain))} includes <{header}>")
            elif file is not None and file.resolve() not in seen:
                seen.add(file.resolve())
                waiting.append((*chain, file))
    return faults


def check_cpp_arrows(csrc, arrows=CPP_ARROWS):
    paths = sorted(p for p in csrc.rglob("*") if p.suffix in CPP_SUFFIXES)
    faults = []
    for files, forbidden, why in arrows:
        found = [p for p in paths if files.match(p.relative_to(csrc).as_posix())]
        if not found:
            faults.append(f"no file matches {files.pattern}: the rule ({why}) checks nothing")
        for path in found:
            faults += [f"{fault}: {why}" for fault in check_includes(csrc, path, forbidden)[:1]]
    return faults


def imported_floors(name, text):
    """(line, floor) of each import of fastcells by the file `name`, as "layers/recurrent.py"."""
    here = ["fastcells", *name.removesuffix(".py").split("/")][:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            modules = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for module in modules:
            if module[0] == "fastcells":
                yield node.lineno, (module[1] if len(module) > 1 else "fastcells")


def check_python_arrows(name, text):
    floor = name.split("/")[0].removesuffix(".py")
    if floor not in IMPORTS:
        return []
    allowed = IMPORTS[floor] | {floor, "_version"}
    imports = dict.fromkeys(imported_floors(name, text))
    return [f"fastcells/{name}:{n}: {floor} -> {to}" for n, to in imports if to not in allowed]


def check_source_list(csrc):
    """csrc/sources.txt lists each .cpp and .cu once, and no two would share an object file."""
    lines = (csrc / "sources.txt").read_text(encoding="utf-8").splitlines()
    listed = [line.partition("#")[0].strip() for line in lines]
    listed = [name for name in listed if name]
    present = {p.relative_to(csrc).as_posix() for p in csrc.rglob("*.c*") if p.suffix != ".cuh"}
    objects = Counter(name.rpartition(".")[0] for name in listed)
    return (
        [f"{name} is not in sources.txt" for name in sorted(present - set(listed))]
        + [f"{name} is in sources.txt and does not exist" for name in sorted(set(listed) - present)]
        + [f"{name}.o is made twice" for name, count in objects.items() if count > 1]
    )
