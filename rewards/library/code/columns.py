"""The columns of a data row that ``code_tests`` reads, by the names that public data sets give them.

A row keeps its tests in one of three ways. The first that is there counts, from top to bottom:

* `PlainColumns`: one column for each part of the tests (HumanEval, MBPP, and what the other two are turned into).
* `CaseColumns`: LiveCodeBench's lists of cases.
* `PackedColumns`: everything in one column, as a value or as its JSON text (APPS, TACO, PRIME, verl, DeepCoder).

`code.formats` reads all of them. A recipe may give a column too, under ``kwargs``: one text is then for all rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

Column = Sequence[Any] | None
"""One value for each completion, None where its row has no such column; or one text for all rows."""


class PlainColumns(TypedDict, total=False):
    """Tests with one column for each part: assertions, calls of a function, or runs of a program.

    Attributes:
        test: A script with assertions, or one that defines ``check(candidate)`` (HumanEval).
        entry_point: The name that ``test`` or ``test_list`` is about.
        test_list: Assertions, one text each (MBPP).
        test_imports: Import lines before each assertion.
        test_setup_code: Code before each assertion.
        inputs: With ``fn_name``: arguments of each call. Without: stdin of each run.
        outputs: With ``fn_name``: value of each call. Without: stdout of each run.
        fn_name: Name of the function, or of a method of the class ``Solution`` (LiveCodeBench).
    """

    test: Column
    entry_point: Column
    test_list: Column
    test_imports: Column
    test_setup_code: Column
    inputs: Column
    outputs: Column
    fn_name: Column


class PackedColumns(TypedDict, total=False):
    """Tests in one column. Each of them may hold any form that `code.formats` lists, or its JSON text.

    Attributes:
        input_output: A mapping with ``inputs``, ``outputs`` and perhaps ``fn_name`` (APPS, TACO).
        ground_truth: The same (verl, PRIME).
        reward_model: The same, inside verl's own mapping.
        verification_info: The same (SYNTHETIC-1).
        tests: The same (DeepCoder).
        test_cases: The same.
    """

    input_output: Column
    ground_truth: Column
    reward_model: Column
    verification_info: Column
    tests: Column
    test_cases: Column


class CaseColumns(TypedDict, total=False):
    """Tests in LiveCodeBench's columns.

    Attributes:
        public_test_cases: A list of cases, each with ``input`` and ``output``.
        private_test_cases: More of them, packed or as JSON.
        metadata: A mapping with ``func_name``, the name of the function.
    """

    public_test_cases: Column
    private_test_cases: Column
    metadata: Column


class CodeColumns(PlainColumns, PackedColumns, CaseColumns, total=False):
    """All columns that ``code_tests`` reads."""


PLAIN_COLUMNS = tuple(PlainColumns.__annotations__)
PACKED_COLUMNS = tuple(PackedColumns.__annotations__)
CASE_LISTS = ("public_test_cases", "private_test_cases")
COLUMNS = (*PLAIN_COLUMNS, *PACKED_COLUMNS, *CaseColumns.__annotations__)


def rows_of(columns: Mapping[str, Any], size: int) -> list[dict[str, Any]]:
    """Return the columns row by row; a column that is None is in no row.

    Args:
        columns: `CodeColumns`; a column that is one text stands in every row.
        size: Number of rows.

    Raises:
        TypeError: A column has another name than those of `CodeColumns`.
    """
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise TypeError(f"code_tests() got an unexpected keyword argument {unknown[0]!r}; valid: {', '.join(COLUMNS)}")
    rows: list[dict[str, Any]] = [{} for _ in range(size)]
    for name, column in columns.items():
        if column is None:
            continue
        for index, row in enumerate(rows):
            row[name] = column if isinstance(column, str) else column[index]
    return rows
