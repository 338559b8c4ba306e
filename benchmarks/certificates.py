"""A certificate for 127.0.0.1, made for one run."""

from pathlib import Path


def certificate(directory: Path) -> tuple[Path, Path]:
    """Files with a key and with its certificate chain. Needs the package trustme."""
    import trustme

    directory.mkdir(parents=True, exist_ok=True)
    key, chain = directory / "key.pem", directory / "chain.pem"
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(key))
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return key, chain
