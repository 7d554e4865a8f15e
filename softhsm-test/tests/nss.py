"""Signs a digest with the key of an id, and writes the signature in DER: MODULE ARGUMENTS LABEL PIN ID DIGEST."""

import sys
from ctypes import CDLL, POINTER, Structure, byref, c_char, c_char_p, c_ulong, c_ubyte, c_void_p, cast
from ctypes import CFUNCTYPE, create_string_buffer, sizeof

module, arguments, label, pin, key_id, digest = sys.argv[1:]
key_id, digest = bytes.fromhex(key_id), bytes.fromhex(digest)

# Places in CK_FUNCTION_LIST, PKCS#11 2.40 section 6.
INITIALIZE, SLOT_LIST, TOKEN_INFO, OPEN, LOGIN = 0, 4, 6, 12, 18
FIND_INIT, FIND, SIGN_INIT, SIGN = 26, 27, 42, 43


class InitArgs(Structure):
    _fields_ = [("mutex", c_void_p * 4), ("flags", c_ulong), ("reserved", c_char_p)]


class Attribute(Structure):
    _fields_ = [("type", c_ulong), ("value", c_void_p), ("len", c_ulong)]


class Mechanism(Structure):
    _fields_ = [("type", c_ulong), ("parameter", c_void_p), ("len", c_ulong)]


functions = c_void_p()
assert CDLL(module).C_GetFunctionList(byref(functions)) == 0


def call(place, *args):
    table = cast(functions.value + sizeof(c_void_p), POINTER(c_void_p))
    result = CFUNCTYPE(c_ulong)(table[place])(*args)
    assert result == 0, f"function {place}: {result:#x}"


OS_LOCKING_OK = 2
call(INITIALIZE, byref(InitArgs(flags=OS_LOCKING_OK, reserved=arguments.encode())))
slots, count = (c_ulong * 8)(), c_ulong(8)
call(SLOT_LIST, c_ubyte(1), slots, byref(count))


def token_label(slot):
    info = create_string_buffer(512)
    call(TOKEN_INFO, c_ulong(slot), info)
    return info.raw[:32].decode().rstrip()


(slot,) = [slot for slot in slots[: count.value] if token_label(slot) == label]
session, key, found = c_ulong(), c_ulong(), c_ulong()
SERIAL = 4
call(OPEN, c_ulong(slot), c_ulong(SERIAL), None, None, byref(session))
call(LOGIN, session, c_ulong(1), pin.encode(), c_ulong(len(pin)))

CKA_CLASS, CKA_ID, PRIVATE_KEY = 0, 0x102, c_ulong(3)
wanted = (c_char * len(key_id)).from_buffer_copy(key_id)
template = (Attribute * 2)(
    Attribute(CKA_CLASS, cast(byref(PRIVATE_KEY), c_void_p), sizeof(PRIVATE_KEY)),
    Attribute(CKA_ID, cast(wanted, c_void_p), len(key_id)),
)
call(FIND_INIT, session, template, c_ulong(2))
call(FIND, session, byref(key), c_ulong(1), byref(found))
assert found.value == 1, "no such key"

ECDSA = 0x1041
signature, length = create_string_buffer(128), c_ulong(128)
call(SIGN_INIT, session, byref(Mechanism(ECDSA, None, 0)), key)
call(SIGN, session, digest, c_ulong(len(digest)), signature, byref(length))


def integer(octets):
    octets = octets.lstrip(b"\0")
    octets = b"\0" + octets if octets[0] & 0x80 else octets
    return bytes([2, len(octets)]) + octets


half = length.value // 2
body = integer(signature.raw[:half]) + integer(signature.raw[half : 2 * half])
sys.stdout.buffer.write(bytes([0x30, len(body)]) + body)
