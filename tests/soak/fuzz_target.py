"""Target of atheris, guided by the library's coverage: python -m tests.soak.fuzz_target.

The first byte of an input selects the kind of the rest. The options are those of libFuzzer; the
first other argument is a directory, which is filled with the corpus of tests/cases if it is empty.
"""

import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["imagecall"]):
    import imagecall  # noqa: F401

from tests.soak.mutants import fault_of_message, fault_of_text, messages, subjects, texts


def write_corpus(directory: Path) -> None:
    """The cases, each as text or message of each subject that may take it."""
    for kind, found in enumerate((texts(), messages())):
        for number, data in enumerate(found):
            for index in range(number % 3, len(subjects()), 3):
                (directory / f"{kind}-{number}-{index}").write_bytes(
                    bytes([2 * index + kind]) + data
                )


def test_one(data: bytes) -> None:
    """Raises AssertionError for what is not equal after the round trip, nor refused."""
    first = data[0] if data else 0
    subject = subjects()[first // 2 % len(subjects())]
    fault = (fault_of_message if first % 2 else fault_of_text)(subject, data[1:])
    assert not fault, f"{subject.name}: {fault}"


def main() -> None:
    directory = Path(next(option for option in sys.argv[1:] if not option.startswith("-")))
    if not any(directory.iterdir()):
        write_corpus(directory)
    atheris.Setup(sys.argv, test_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
