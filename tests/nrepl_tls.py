# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys as nREPL 1.1 wants them, and a real TLS server before one that knows no TLS."""

from __future__ import annotations

import contextlib
import datetime
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclass
class Identity:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def key_pem(self, password: bytes | None = None, legacy: bool = False) -> str:
        kind = serialization.PrivateFormat.TraditionalOpenSSL if legacy else serialization.PrivateFormat.PKCS8
        secret = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        return self.key.private_bytes(serialization.Encoding.PEM, kind, secret).decode()


@dataclass
class Authority:
    """Signs the certificates of one server and its clients."""

    identity: Identity

    @classmethod
    def make(cls) -> Authority:
        return cls(_issue("root", None))

    def issue(self, name: str, *, days: int = 2, is_rsa: bool = False) -> Identity:
        return _issue(name, self.identity, days=days, is_rsa=is_rsa)

    def keys(self, identity: Identity) -> str:
        """The content of a file of keys."""
        return self.identity.pem + identity.pem + identity.key_pem()


def _issue(name: str, issuer: Identity | None, *, days: int = 2, is_rsa: bool = False) -> Identity:
    key = rsa.generate_private_key(65537, 2048) if is_rsa else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 3 * DAY)
        .not_valid_after(now + days * DAY)
    )
    if not issuer:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return Identity(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


@contextlib.contextmanager
def tls_server(folder: Path, authority: Authority, identity: Identity, target: int) -> Iterator[int]:
    """A server that shows this identity, wants one of the authority, and hands on to a port; yields its own port."""
    (folder / "authority.pem").write_text(authority.identity.pem)
    (folder / "server.pem").write_text(identity.pem + identity.key_pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "server.pem")
    context.load_verify_locations(folder / "authority.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, context, target), daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, context: ssl.SSLContext, target: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            accepted = listener.accept()[0]
            threading.Thread(target=_hand_on, args=(accepted, context, target), daemon=True).start()


def _hand_on(accepted: socket.socket, context: ssl.SSLContext, target: int) -> None:
    with (
        contextlib.suppress(OSError),
        context.wrap_socket(accepted, server_side=True) as client,
        socket.create_connection(("127.0.0.1", target)) as server,
    ):
        while True:
            readable = [client] if client.pending() else select.select([client, server], [], [])[0]
            for source, other in ((client, server), (server, client)):
                if source in readable and not _copy(source, other):
                    return


def _copy(source: socket.socket, target: socket.socket) -> bool:
    """Hand on what is there; whether more may come."""
    source.settimeout(0)
    try:
        data = source.recv(1 << 14)
    except ssl.SSLWantReadError:
        # A part of the protocol, or of a record.
        return True
    finally:
        source.settimeout(None)
    target.sendall(data)
    return bool(data)
