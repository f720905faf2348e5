"""ECDSA on P-256 and the little of DER that a key and a certificate request need. For a test: it is neither fast nor
guarded against timing. (FIPS 186-4; SEC 1; RFC 2986; RFC 5915.)"""

import base64
import hashlib
import secrets

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)


def add(a, b):
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    if a == b:
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def times(k, point):
    result = None
    while k:
        if k & 1:
            result = add(result, point)
        point = add(point, point)
        k >>= 1
    return result


def der(tag, *parts):
    body = b"".join(parts)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def integer(n):
    return der(2, n.to_bytes(n.bit_length() // 8 + 1, "big"))


def pem(label, body):
    lines = base64.encodebytes(body).decode()
    return f"-----BEGIN {label}-----\n{lines}-----END {label}-----\n"


EC_PUBLIC_KEY = der(6, bytes.fromhex("2a8648ce3d0201"))
PRIME256V1 = der(6, bytes.fromhex("2a8648ce3d030107"))
ECDSA_WITH_SHA256 = der(0x30, der(6, bytes.fromhex("2a8648ce3d040302")))
COMMON_NAME = der(6, bytes.fromhex("550403"))


class Key:
    def __init__(self):
        self.secret = secrets.randbelow(N - 1) + 1
        x, y = times(self.secret, G)
        self.point = b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")

    def pem(self):
        public = der(0xA1, der(3, b"\0", self.point))
        body = der(0x30, integer(1), der(4, self.secret.to_bytes(32, "big")), der(0xA0, PRIME256V1), public)
        return pem("EC PRIVATE KEY", body)

    def sign(self, message):
        digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
        while True:
            k = secrets.randbelow(N - 1) + 1
            r = times(k, G)[0] % N
            s = pow(k, -1, N) * (digest + r * self.secret) % N
            if r and s:
                return der(0x30, integer(r), integer(s))

    def request(self, name):
        subject = der(0x30, der(0x31, der(0x30, COMMON_NAME, der(12, name.encode()))))
        key = der(0x30, der(0x30, EC_PUBLIC_KEY, PRIME256V1), der(3, b"\0", self.point))
        info = der(0x30, integer(0), subject, key, der(0xA0))
        return pem("CERTIFICATE REQUEST", der(0x30, info, ECDSA_WITH_SHA256, der(3, b"\0", self.sign(info))))
