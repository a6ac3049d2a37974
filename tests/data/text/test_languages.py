# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import pathlib
import subprocess
import sys

import pytest

from parti.data.text import languages


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a brown dog sleeps on a green sofa in the living room", "en"),
        ("ein brauner Hund schläft auf dem grünen Sofa im Wohnzimmer", "de"),
        ("un chien brun dort sur le canapé vert dans le salon", "fr"),
        ("un perro marrón duerme en el sofá verde de la sala", "es"),
        ("коричневая собака спит на зелёном диване в гостиной", "ru"),
        ("リビングの緑のソファで茶色い犬が寝ています", "ja"),
        ("一只棕色的狗睡在客厅的绿色沙发上", "zh"),
        ("كلب بني ينام على أريكة خضراء في غرفة المعيشة", "ar"),
    ],
)
def test_languages_are_told(text: str, code: str) -> None:
    found, confidence = languages.identify(text)
    assert found == code and 0.5 < confidence <= 1


@pytest.mark.parametrize("text", ["", " \n", "12345", "!?", "\U0001f600", "\ud800"])
def test_what_has_no_letter_has_no_language(text: str) -> None:
    assert languages.identify(text) == (languages.UNKNOWN, 0.0)


def test_strange_texts_have_an_answer() -> None:
    for text in ("a\x00b\nc", "word " * 100_000, "e\ud800f", "\u0301" * 50 + "a"):
        code, confidence = languages.identify(text)
        assert code in languages.codes() and 0 <= confidence <= 1


def test_candidates_are_in_order() -> None:
    found = languages.candidates("a red circle", 5)
    assert len(found) == 5 and found[0] == languages.identify("a red circle")
    assert [c for _, c in found] == sorted((c for _, c in found), reverse=True)
    assert {"en", "de", "ja", languages.UNKNOWN} <= languages.codes()


def test_no_network_and_no_download() -> None:
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from parti.data.text import languages\n"
        "print(languages.identify('a dog on the beach')[0])\n"
    )
    root = pathlib.Path(__file__).resolve().parents[3]
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "en\n"
