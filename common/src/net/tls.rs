//! TLS 1.3 with raw Ed25519 keys (RFC 7250) and X25519MLKEM768, and nothing else (docs/protocol.md, chapter 1).
//!
//! The dialling side knows which key it wants and accepts no other (S18). Both sides check the handshake's signature.
//! There is no server name, no ticket, no stored session and no early data, because each of them would link a client's
//! visits.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};

use crate::world::Sockets;

/// The fixed beginning of an Ed25519 SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// The fixed beginning of an Ed25519 private key in PKCS#8 version 1 (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A TLS configuration could not be made. The fault is this program's or its library's.
#[derive(Debug, thiserror::Error)]
#[error("TLS could not be set up: {0}")]
pub struct TlsSetupError(#[from] rustls::Error);

fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    }
}

/// The Ed25519 key in a raw-public-key certificate; `None` if there is another kind of key.
pub(super) fn key_of(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    certificate
        .as_ref()
        .strip_prefix(&SPKI_PREFIX)?
        .try_into()
        .ok()
}

fn certified(key: &SigningKey) -> Result<Arc<CertifiedKey>, TlsSetupError> {
    let mut der = zeroize::Zeroizing::new([0; 48]);
    der[..16].copy_from_slice(&PKCS8_PREFIX);
    der[16..].copy_from_slice(key.as_bytes());
    let signer = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(&der[..]))?;
    let public = [&SPKI_PREFIX[..], key.verifying_key().as_bytes()].concat();
    Ok(Arc::new(CertifiedKey::new(
        vec![CertificateDer::from(public)],
        signer,
    )))
}

/// Which keys this peer shows when it dials or accepts.
#[derive(Clone)]
pub struct Tls {
    provider: Arc<CryptoProvider>,
    server: Option<Arc<ServerConfig>>,
    client_key: Arc<dyn ResolvesClientCert>,
    sockets: Sockets,
}

impl Tls {
    /// The settings of a client, which shows no key and accepts no connection.
    pub fn client() -> Self {
        let provider = Arc::new(provider());
        Self {
            provider,
            server: None,
            client_key: Arc::new(DiallerKey(None)),
            sockets: Sockets::default(),
        }
    }

    /// The settings of a relay, which shows `key` both when it dials and when it accepts.
    pub fn relay(key: &SigningKey) -> Result<Self, TlsSetupError> {
        let provider = Arc::new(provider());
        let certified = certified(key)?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(AnyRawKey(provider.clone())))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                certified.clone(),
            )));
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;
        Ok(Self {
            provider,
            server: Some(Arc::new(server)),
            client_key: Arc::new(DiallerKey(Some(certified))),
            sockets: Sockets::default(),
        })
    }

    /// These settings, with connections that are dialled over `sockets`.
    pub fn over(self, sockets: Sockets) -> Self {
        Self { sockets, ..self }
    }

    /// What connections are dialled over.
    pub(super) fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// The configuration for accepted connections; `None` for a client.
    pub(super) fn server(&self) -> Option<Arc<ServerConfig>> {
        self.server.clone()
    }

    /// The configuration for one dial to the holder of `key`.
    pub(super) fn dial(&self, key: [u8; 32]) -> Result<Arc<ClientConfig>, TlsSetupError> {
        let pinned = PinnedKey {
            key,
            provider: self.provider.clone(),
        };
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(pinned))
            .with_client_cert_resolver(self.client_key.clone());
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_early_data = false;
        Ok(Arc::new(config))
    }
}

/// A name for rustls, which asks for one and, without SNI, never sends it.
pub(super) fn no_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into())
}

/// Always offers raw keys for the dialling side, so that all ClientHellos are alike, and shows a key only if there is
/// one.
#[derive(Debug)]
struct DiallerKey(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for DiallerKey {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn verify_raw(
    provider: &CryptoProvider,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    verify_tls13_signature_with_raw_key(
        message,
        &SubjectPublicKeyInfoDer::from(certificate.as_ref()),
        signature,
        &provider.signature_verification_algorithms,
    )
}

fn tls12_refused() -> rustls::Error {
    rustls::PeerIncompatible::Tls12NotOffered.into()
}

/// Accepts only the key that was dialled.
#[derive(Debug)]
struct PinnedKey {
    key: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if key_of(certificate) == Some(self.key) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12_refused())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_raw(&self.provider, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Accepts any Ed25519 key, or none. Afterwards the consensus says who a key belongs to.
#[derive(Debug)]
struct AnyRawKey(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyRawKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match key_of(certificate) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(rustls::CertificateError::BadEncoding.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12_refused())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_raw(&self.0, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_own_tls_is_left_alone() {
        // A program that embeds a client may have chosen another provider for the process, or may be about to.
        let _ = (
            Tls::client(),
            Tls::relay(&SigningKey::from_bytes(&[7; 32])).unwrap(),
        );
        assert!(CryptoProvider::get_default().is_none());
    }
}
