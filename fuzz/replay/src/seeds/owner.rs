//! Samples of what the owner and the disk hand over.

use cepa_common::dir::AuthorityCert;
use ed25519_dalek::SigningKey;

use super::{Seed, authority_key, network};

pub(super) fn owner() -> Vec<Seed> {
    let id = network().network_id();
    let key = SigningKey::from_bytes(&[3; 32]).verifying_key().to_bytes();
    let cert = AuthorityCert::issue(&authority_key(), &id, key, 1_900_000_000);
    let cert = cert.map(|cert| cert.to_text()).unwrap_or_default();
    let text = |name: &'static str, text: &str| ("peers", name, text.as_bytes().to_vec());
    let countries = include_bytes!("../../../../tests/reference/countries.mmdb");
    // The fields of `StoredGuard`: identity, when it was added, rank and date of its first use, when it was unlisted.
    let guard = |n: u8, rank: Option<(u16, u64)>| ([n; 32], 1_800_000_000u64, rank, None::<u64>);
    let guards =
        |guards: &[_]| postcard::to_allocvec(&(1u8, [7u8; 32], guards)).unwrap_or_default();
    let used = guards(&[guard(1, None), guard(2, Some((0, 1_800_000_100)))]);
    let gap = guards(&[guard(1, Some((1, 1_800_000_100)))]);
    let ledger =
        |ledger: &[([u8; 32], u32, u32)]| postcard::to_allocvec(&(1u8, ledger)).unwrap_or_default();
    vec![
        ("guards", "good_none", guards(&[])),
        ("guards", "good_used", used.clone()),
        ("guards", "trailing", [&used[..], &[0]].concat()),
        ("guards", "gap", gap),
        (
            "bias",
            "good",
            ledger(&[([1; 32], 20, 19), ([2; 32], 1, 0)]),
        ),
        ("bias", "more_built", ledger(&[([1; 32], 1, 2)])),
        text("good_range", "192.0.2.0/24"),
        text("good_range6", "[2001:db8::]/32"),
        text("good_country", "country:de"),
        text("good_family", &format!("family:{}", "07".repeat(32))),
        text("good_destination", ".example.org:80-443"),
        text(
            "good_rule",
            ".example.com:443,*:22 only country:de country:ch avoid 192.0.2.0/24",
        ),
        text("torn_rule", "* only"),
        ("authority_cert", "torn", cert.replace("key", "keys").into()),
        ("authority_cert", "good", cert.into()),
        ("geoip", "good_countries", countries.to_vec()),
        ("geoip", "half", countries[..countries.len() / 2].to_vec()),
    ]
}
