"""Keys, seals and signatures of docs/format.md, section 5.

ML-KEM-768 is written out (FIPS 203): no package of PyPI that is kept up has it without a compiler.
Not hardened against timing: this is for tests.
"""

import hashlib
import hmac
import struct

from nacl import bindings as sodium

# --- ML-KEM-768 (FIPS 203) ---------------------------------------------------------------------

Q, N, K, ETA, DU, DV = 3329, 256, 3, 2, 10, 4


def _bit_reversed(number):
    return int(f"{number:07b}"[::-1], 2)


ZETAS = [pow(17, _bit_reversed(i), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * _bit_reversed(i) + 1, Q) for i in range(128)]


def _ntt(f):
    f, i, length = list(f), 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            zeta, i = ZETAS[i], i + 1
            for j in range(start, start + length):
                t = zeta * f[j + length] % Q
                f[j + length], f[j] = (f[j] - t) % Q, (f[j] + t) % Q
        length //= 2
    return f


def _inverse_ntt(f):
    f, i, length = list(f), 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            zeta, i = ZETAS[i], i - 1
            for j in range(start, start + length):
                t = f[j]
                f[j], f[j + length] = (t + f[j + length]) % Q, zeta * (f[j + length] - t) % Q
        length *= 2
    return [x * 3303 % Q for x in f]


def _multiply(f, g):
    h = []
    for i in range(128):
        a0, a1, b0, b1 = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        h += [(a0 * b0 + a1 * b1 * GAMMAS[i]) % Q, (a0 * b1 + a1 * b0) % Q]
    return h


def _add(f, g):
    return [(a + b) % Q for a, b in zip(f, g)]


def _dot(fs, gs):
    total = [0] * N
    for f, g in zip(fs, gs):
        total = _add(total, _multiply(f, g))
    return total


def _encode(d, f):
    number = sum(x << (d * i) for i, x in enumerate(f))
    return number.to_bytes(32 * d, "little")


def _decode(d, data):
    number, mask = int.from_bytes(data, "little"), (1 << d) - 1
    return [number >> (d * i) & mask for i in range(N)]


def _compress(d, f):
    return [((x << d) + Q // 2) // Q % (1 << d) for x in f]


def _decompress(d, f):
    return [(x * Q + (1 << (d - 1))) >> d for x in f]


def _sample_ntt(seed):
    data, f, i = hashlib.shake_128(seed).digest(1680), [], 0
    while len(f) < N:
        a, b, c = data[i : i + 3]
        i += 3
        f += [x for x in (a + 256 * (b % 16), b // 16 + 16 * c) if x < Q]
    return f[:N]


def _sample_cbd(seed, number):
    data = hashlib.shake_256(seed + bytes([number])).digest(64 * ETA)
    bits = int.from_bytes(data, "little")
    four = [bits >> (4 * i) & 15 for i in range(N)]
    return [((x & 1) + (x >> 1 & 1) - (x >> 2 & 1) - (x >> 3)) % Q for x in four]


def _matrix(rho):
    return [[_sample_ntt(rho + bytes([j, i])) for j in range(K)] for i in range(K)]


def _ml_kem_encrypt(ek, message, randomness):
    t = [_decode(12, ek[384 * i : 384 * (i + 1)]) for i in range(K)]
    a = _matrix(ek[384 * K :])
    y = [_ntt(_sample_cbd(randomness, i)) for i in range(K)]
    e1 = [_sample_cbd(randomness, K + i) for i in range(K)]
    e2 = _sample_cbd(randomness, 2 * K)
    column = lambda i: [a[j][i] for j in range(K)]
    u = [_add(_inverse_ntt(_dot(column(i), y)), e1[i]) for i in range(K)]
    v = _add(_add(_inverse_ntt(_dot(t, y)), e2), _decompress(1, _decode(1, message)))
    return b"".join(_encode(DU, _compress(DU, f)) for f in u) + _encode(DV, _compress(DV, v))


def ml_kem_key_pair(d, z):
    """ML-KEM.KeyGen_internal: the encapsulation and the decapsulation key."""
    seeds = hashlib.sha3_512(d + bytes([K])).digest()
    rho, sigma = seeds[:32], seeds[32:]
    a = _matrix(rho)
    s = [_ntt(_sample_cbd(sigma, i)) for i in range(K)]
    e = [_ntt(_sample_cbd(sigma, K + i)) for i in range(K)]
    t = [_add(_dot(a[i], s), e[i]) for i in range(K)]
    ek = b"".join(_encode(12, f) for f in t) + rho
    return ek, b"".join(_encode(12, f) for f in s) + ek + hashlib.sha3_256(ek).digest() + z


def ml_kem_decapsulate(dk, ciphertext):
    """ML-KEM.Decaps_internal."""
    ek = dk[384 * K : 768 * K + 32]
    h, z = dk[768 * K + 32 : 768 * K + 64], dk[768 * K + 64 :]
    s = [_decode(12, dk[384 * i : 384 * (i + 1)]) for i in range(K)]
    part = 32 * DU
    u = [_decompress(DU, _decode(DU, ciphertext[part * i : part * (i + 1)])) for i in range(K)]
    v = _decompress(DV, _decode(DV, ciphertext[part * K :]))
    inner = _inverse_ntt(_dot(s, [_ntt(f) for f in u]))
    message = _encode(1, _compress(1, [(a - b) % Q for a, b in zip(v, inner)]))
    derived = hashlib.sha3_512(message + h).digest()
    if _ml_kem_encrypt(ek, message, derived[32:]) == ciphertext:
        return derived[:32]
    return hashlib.shake_256(z + ciphertext).digest(32)


# --- X-Wing and HPKE ---------------------------------------------------------------------------

LABEL = bytes.fromhex("5c2e2f2f5e5c")


class XWing:
    """An X-Wing key pair, from its seed."""

    def __init__(self, seed):
        expanded = hashlib.shake_256(seed).digest(96)
        ek, self._dk = ml_kem_key_pair(expanded[:32], expanded[32:64])
        self._x = expanded[64:]
        self._x_public = sodium.crypto_scalarmult_base(self._x)
        self.public = ek + self._x_public

    def decapsulate(self, encapsulated):
        ciphertext, ephemeral = encapsulated[:1088], encapsulated[1088:]
        ours = ml_kem_decapsulate(self._dk, ciphertext)
        theirs = sodium.crypto_scalarmult(self._x, ephemeral)
        return hashlib.sha3_256(ours + theirs + ephemeral + self._x_public + LABEL).digest()

    def open(self, info, aad, encapsulated, sealed):
        """HPKE, base mode, single-shot."""
        suite = b"HPKE" + bytes.fromhex("647a00010003")
        secret = self.decapsulate(encapsulated)

        def extract(salt, label, ikm):
            return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")

        def expand(prk, label, context, length):
            labelled = struct.pack(">H", length) + b"HPKE-v1" + suite + label + context
            return hmac.digest(prk, labelled + b"\x01", "sha256")[:length]

        context = b"\x00" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
        schedule = extract(secret, b"secret", b"")
        key = expand(schedule, b"key", context, 32)
        nonce = expand(schedule, b"base_nonce", context, 12)
        return sodium.crypto_aead_chacha20poly1305_ietf_decrypt(sealed, aad, nonce, key)


# --- Seals and signatures ----------------------------------------------------------------------


def associated_data(kind, repository, name):
    return b"alluvium" + struct.pack("<HB", 1, kind) + repository + name


def open_seal(key, data, sealed):
    """Opens XChaCha20-Poly1305. Raises nacl.exceptions.CryptoError."""
    return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed[24:], data, sealed[:24], key)


def signing_public(secret):
    return sodium.crypto_sign_seed_keypair(secret)[0]


def verify_signature(public, message, signature):
    """Verifies Ed25519. libsodium refuses small orders and S >= the group order, too."""
    sodium.crypto_sign_open(signature + message, public)
