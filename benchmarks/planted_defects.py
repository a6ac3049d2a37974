# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What `clean_quality.py` plants among good pairs: copies, bad captions, broken files."""

import dataclasses
import io
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

NAMES = ("anna", "b.smith", "chen_li", "d-muller", "sales", "info", "omar77", "photos")
HOSTS = ("example.com", "example.org", "mail.example.net", "shop.example")
PREFIXES = ("Click to enlarge", "Image result for", "Stock photo", "Click image to enlarge")
SUFFIXES = ("stock photo", "- Stock Image", "stock vector", "royalty free stock photo")
JUNK: tuple[Callable[[random.Random], str], ...] = (
    lambda rng: f"IMG_{rng.randrange(10**5):05d}",
    lambda rng: f"DSC{rng.randrange(10**4):04d}.JPG",
    lambda rng: f"{rng.randrange(10**6)}-{rng.randrange(10**6)}",
    lambda rng: "",
    lambda rng: " ".join([rng.choice(["buy", "sale", "new"])] * 7 + ["now"]),
    lambda rng: f"product_{rng.randrange(10**4)}_final.png",
    lambda rng: f"{rng.randrange(10**8)} x {rng.randrange(10**5)} {rng.randrange(10**7)} mm",
    lambda rng: f"http://{rng.choice(HOSTS)}/{rng.randrange(10**6)}",
    lambda rng: "!!! *** ??? ---",
)
FOREIGN = (
    "Ein roter Kreis liegt \u00fcber einem blauen Quadrat",
    "Der alte Leuchtturm steht am Ende des Hafens",
    "Un chat noir dort sur une chaise pr\u00e8s de la fen\u00eatre",
    "Une maison blanche au bord de la mer sous un ciel gris",
    "Dos perros juegan en la playa con una pelota amarilla",
    "La monta\u00f1a nevada detr\u00e1s del pueblo peque\u00f1o",
    "Un vecchio ponte di pietra sopra il fiume verde",
    "Uma mulher com um chap\u00e9u vermelho no mercado",
    "Een fiets staat tegen de muur van het oude huis",
    "Stary drewniany ko\u015bci\u00f3\u0142 na wzg\u00f3rzu w\u015br\u00f3d drzew",
    "\u0421\u0442\u0430\u0440\u044b\u0439 \u0434\u043e\u043c \u043d\u0430 "
    "\u0431\u0435\u0440\u0435\u0433\u0443 \u0440\u0435\u043a\u0438 \u0437\u0438\u043c\u043e\u0439",
    "\u0686\u0631\u0627\u063a \u0642\u062f\u06cc\u0645\u06cc \u06a9\u0646\u0627\u0631 "
    "\u062f\u0631\u06cc\u0627",
    "\u8d64\u3044\u4e38\u306e\u4e0a\u306b\u9752\u3044\u56db\u89d2\u304c\u3042\u308a\u307e\u3059",
    "\u4e00\u53ea\u9ed1\u8272\u7684\u732b\u7761\u5728\u7a97\u8fb9\u7684\u6905\u5b50\u4e0a",
    "\ud574\ubcc0\uc5d0\uc11c \ub178\ub294 \ub450 \ub9c8\ub9ac\uc758 \uac1c",
    "\u0935\u0939 \u0932\u0921\u093c\u0915\u0940 \u0932\u093e\u0932 \u091f\u094b\u092a\u0940 "
    "\u092a\u0939\u0928\u0924\u0940 \u0939\u0948",
)
CAPTION_REASONS = {
    "junk_caption": ("caption_",),
    "foreign_caption": ("caption_foreign", "caption_language"),
    "email_caption": ("caption_email",),
    "phone_caption": ("caption_phone",),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A pair to clean.

    Attributes:
      key: of the pair.
      image: the encoded picture.
      suffix: of its file.
      text: the caption.
      kind: "good", or the defect.
      origin: key of the pair that it is made of.
    """

    key: str
    image: bytes
    suffix: str
    text: str
    kind: str
    origin: str


def encode(image: np.ndarray | Image.Image, kind: str = "PNG", **options: int) -> bytes:
    """Encodes a picture."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _half(image: np.ndarray) -> bytes:
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    return encode(picture.resize((width // 2, height // 2), Image.Resampling.LANCZOS))


def _crop(image: np.ndarray) -> bytes:
    height, width = (round(side * 0.05) for side in image.shape[:2])
    return encode(image[height : image.shape[0] - height, width : image.shape[1] - width])


def _border(image: np.ndarray) -> bytes:
    margin = max(1, round(0.05 * max(image.shape[:2])))
    return encode(np.pad(image, ((margin, margin), (margin, margin), (0, 0))))


def _overlay(image: np.ndarray) -> bytes:
    picture = Image.fromarray(image)
    height = picture.height
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, round(height * 0.85), picture.width, height), fill=(0, 0, 0))
    draw.text((2, round(height * 0.86)), "a caption", fill=(255, 255, 255))
    return encode(picture)


# Kind -> (suffix, the copy of [height, width, 3] uint8).
COPIES: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "same_pixels": ("png", lambda image: encode(image, compress_level=1)),
    "jpeg_50": ("jpg", lambda image: encode(image, "JPEG", quality=50)),
    "half_size": ("png", _half),
    "crop_90": ("png", _crop),
    "border": ("png", _border),
    "flip": ("png", lambda image: encode(image[:, ::-1])),
    "text_overlay": ("png", _overlay),
}


def _email(rng: random.Random, text: str) -> str:
    return f"{text} contact {rng.choice(NAMES)}@{rng.choice(HOSTS)}"


def _phone(rng: random.Random, text: str) -> str:
    return f"{text}, call +1 ({rng.randrange(200, 999)}) 555-01{rng.randrange(100):02d}"


def _boilerplate(rng: random.Random, text: str) -> str:
    if rng.random() < 0.5:
        return f"{rng.choice(PREFIXES)} {text}"
    return f"{text} {rng.choice(SUFFIXES)}"


CAPTIONS: dict[str, Callable[[random.Random, str], str]] = {
    "junk_caption": lambda rng, text: rng.choice(JUNK)(rng),
    "foreign_caption": lambda rng, text: rng.choice(FOREIGN),
    "email_caption": _email,
    "phone_caption": _phone,
    "boilerplate_caption": _boilerplate,
}


def _damaged(rng: random.Random, data: bytes) -> bytes:
    """Returns one of: cut off, empty, a page, noise, one pixel, a claim of 30,000 x 30,000."""
    choice = rng.randrange(6)
    if choice == 0:
        return data[: len(data) // 3]
    if choice == 1:
        return b""
    if choice == 2:
        return b"<html><body>404 Not Found</body></html>"
    if choice == 3:
        return rng.randbytes(500)
    if choice == 4:
        return encode(np.zeros((1, 1, 3), np.uint8))
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, "PNG")
    return buffer.getvalue()


BROKEN: dict[str, Callable[[random.Random, bytes], bytes]] = {"broken_file": _damaged}
