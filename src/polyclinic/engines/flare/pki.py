"""Certificates of a hub: its own authority signs its server and the hospitals that join it.

Private keys are made where they stay. They are RSA because FLARE signs its identity challenge with
RSA-PSS, whatever TLS would allow.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from polyclinic.core.errors import InputError

BITS = 3072
DAYS, CA_DAYS = 825, 3650
SERVER, CLIENT = "server", "client"
_SKEW = timedelta(hours=1)  # a machine whose clock is a little behind


def days_left(certificate: bytes) -> int | None:
    """Days until a certificate (PEM) ends, below 0 afterwards; None for what is none."""
    try:
        ends = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    except ValueError:
        return None
    return (ends - datetime.now(UTC)).days


def make_ca(name: str) -> tuple[bytes, bytes]:
    """A new authority for the hub `name`: certificate and private key (PEM)."""
    key = _new_key()
    subject = _subject(name, "")
    builder = _builder(subject, subject, key.public_key(), key, CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(sign_others=True), critical=True)
    return _pem(builder.sign(key, hashes.SHA256())), _key_pem(key)


def sign_server(ca_cert: bytes, ca_key: bytes, host: str) -> tuple[bytes, bytes]:
    """Certificate and private key (PEM) of a hub that hospitals reach as `host`."""
    key = _new_key()
    names: list[x509.GeneralName] = [_host(host), x509.DNSName(SERVER)]
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    subject = _subject(SERVER, SERVER)
    return _signed(ca_cert, ca_key, subject, key.public_key(), names, purposes), _key_pem(key)


def make_request(name: str) -> tuple[bytes, bytes]:
    """A request of the hospital `name` for a certificate, and its new private key (PEM)."""
    key = _new_key()
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(name, CLIENT))
    return _pem(builder.sign(key, hashes.SHA256())), _key_pem(key)


def sign_request(csr_pem: bytes, ca_cert: bytes, ca_key: bytes, name: str) -> bytes:
    """The certificate (PEM) of the hospital `name` for the key in its request.

    Of the request only the key is taken; name, role and purposes are set here.

    Raises
    ------
    InputError : BAD_REQUEST for bytes that are no request with a proof of its key, or a weak key.
    """
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        public = csr.public_key()
        valid = csr.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _bad_request() from error
    if not valid or not isinstance(public, rsa.RSAPublicKey) or not BITS <= public.key_size <= 8192:
        raise _bad_request()
    names: list[x509.GeneralName] = [x509.DNSName(name.replace("_", "-"))]
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return _signed(ca_cert, ca_key, _subject(name, CLIENT), public, names, purposes)


def name_of(cert: bytes) -> str:
    """The name that a certificate (PEM) is for."""
    subject = x509.load_pem_x509_certificate(cert).subject
    return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _signed(
    ca_cert: bytes,
    ca_key: bytes,
    subject: x509.Name,
    public: rsa.RSAPublicKey,
    names: list[x509.GeneralName],
    purposes: list[x509.ObjectIdentifier],
) -> bytes:
    issuer = x509.load_pem_x509_certificate(ca_cert)
    key = serialization.load_pem_private_key(ca_key, password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("the authority's key is an RSA key")
    builder = _builder(subject, issuer.subject, public, key, DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_usage(sign_others=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _pem(builder.sign(key, hashes.SHA256()))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: rsa.RSAPublicKey,
    signer: rsa.RSAPrivateKey,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(identifier, critical=False)
        .add_extension(by, critical=False)
    )


def _subject(name: str, role: str) -> x509.Name:
    """As FLARE reads it: the role stands in the unstructured name."""
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, "polyclinic"))
    if role:
        parts.append(x509.NameAttribute(NameOID.UNSTRUCTURED_NAME, role))
    return x509.Name(parts)


def _usage(sign_others: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not sign_others,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_others,
        crl_sign=sign_others,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=BITS)


def _pem(value: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    return value.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _bad_request() -> InputError:
    return InputError(
        "this is no request for a certificate",
        code="BAD_REQUEST",
        rule=f"a hospital asks with an RSA key of at least {BITS} bits, and proves that it has it",
        next="join again: polyclinic site join INVITE",
        kept="nothing was signed",
    )
