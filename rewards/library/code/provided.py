"""Names that solutions of call rows use without importing them, because LeetCode and LiveCodeBench provide them.

LiveCodeBench's graders put star imports of these modules before a solution, then import the modules themselves. Here
only names that a solution mentions are imported, because each import makes the start of every program slower.
"""

import re

_FROM = {
    "typing": "Any Callable ClassVar Deque DefaultDict Dict FrozenSet Generator Generic Iterable Iterator List Literal "
    "Mapping NamedTuple NoReturn Optional Sequence Set Text Tuple Type TypeVar Union",
    "collections": "ChainMap Counter OrderedDict UserDict UserList UserString defaultdict deque namedtuple",
    "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
    "bisect": "bisect_left bisect_right insort insort_left insort_right",
    "math": "acos acosh asin asinh atan atan2 atanh cbrt ceil comb copysign cos cosh degrees dist e erf erfc exp exp2 "
    "expm1 fabs factorial floor fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf isnan isqrt lcm ldexp "
    "lgamma log log10 log1p log2 modf nan nextafter perm pi prod radians sin sinh sqrt tan tanh tau trunc ulp",
    "itertools": "accumulate chain combinations combinations_with_replacement compress count cycle dropwhile "
    "filterfalse groupby islice pairwise permutations product repeat starmap takewhile tee zip_longest",
    "functools": "cache cached_property cmp_to_key lru_cache partial partialmethod reduce singledispatch "
    "total_ordering wraps",
    "operator": "add and_ attrgetter concat contains countOf eq floordiv ge gt iadd indexOf inv invert is_ is_not "
    "itemgetter le lshift lt methodcaller mod mul ne neg not_ or_ rshift sub truediv truth xor",
    "string": "ascii_letters ascii_lowercase ascii_uppercase capwords digits hexdigits octdigits printable punctuation "
    "whitespace Template Formatter",
    "random": "choice choices gauss getrandbits randint randrange sample seed shuffle uniform",
    "statistics": "fmean geometric_mean harmonic_mean mean median median_high median_low mode multimode pstdev "
    "pvariance quantiles stdev variance",
    "copy": "deepcopy",
    "datetime": "date timedelta timezone",
    "re": "escape findall finditer fullmatch search split sub subn",
    "io": "BytesIO StringIO",
    "json": "dumps loads",
    "sys": "maxsize setrecursionlimit stderr stdin stdout",
    "dataclasses": "dataclass field",
    "enum": "Enum IntEnum",
    "fractions": "Fraction",
    "decimal": "Decimal",
}
_MODULES = (
    "array bisect cmath collections copy datetime decimal fractions functools heapq io itertools json math operator os "
    "queue random re statistics string sys time typing"
)
_NODES = {
    "ListNode": "def __init__(self, val=0, next=None): self.val, self.next = val, next",
    "TreeNode": "def __init__(self, val=0, left=None, right=None): self.val, self.left, self.right = val, left, right",
}
PROVIDED = {
    **{name: f"from {module} import {name}" for module, names in reversed(_FROM.items()) for name in names.split()},
    **{name: f"import {name}" for name in _MODULES.split()},
    **{name: f"class {name}:\n    {body}" for name, body in _NODES.items()},
}
"""The line that provides a name, by name."""


def provided_for(sources: list[str]) -> str:
    """Write the lines that provide the names these texts mention; a text may define such a name itself."""
    mentioned = {word for source in sources for word in re.findall(r"[A-Za-z_]\w*+", source)}
    lines = [line for name, line in PROVIDED.items() if name in mentioned]
    return "\n".join([*lines, "import sys; sys.setrecursionlimit(50_000)", ""])
