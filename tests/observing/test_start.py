"""The observer that the settings ask for."""

import subprocess
import sys

import pytest

from imagecall.observing.start import observer_from


def test_without_the_extra_a_sentence_says_what_to_install() -> None:
    program = (
        "import sys\n"
        "sys.modules['prometheus_client'] = None\n"
        "from imagecall.commands.main import main\n"
        "options = ['--grpc', '127.0.0.1:0', '--http', 'off', '--metrics', '127.0.0.1:0']\n"
        "sys.exit(main(['serve', *options]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert "[observe]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_everything_off_there_is_no_observer_and_nothing_is_loaded() -> None:
    program = (
        "import sys, imagecall.commands.main\n"
        "import imagecall.doors.http.app, imagecall.doors.grpc.server\n"
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'prometheus'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n"

    assert observer_from(metrics=False, traces=False, log_calls=False) is None


def test_a_faulty_variable_is_an_error_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "x")
    with pytest.raises(OSError, match=r"OTEL_\.\.\. is faulty: .* but got x"):
        observer_from(metrics=False, traces=True, log_calls=False)


def test_conversion_does_not_load_observing() -> None:
    program = (
        "import sys, imagecall.conversion.batch\n"
        "print([m for m in sys.modules if m.startswith('imagecall.observing')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n"
