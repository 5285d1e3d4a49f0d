use super::*;
use crate::testkit::{self, signing_key};

#[test]
fn text_survives_a_round_trip() {
    let network = testkit::network(3);
    let text = network.to_toml().unwrap();
    let parsed = NetworkFile::parse(&text).unwrap();
    assert_eq!(parsed, network);
    assert_eq!(parsed.network_id(), network.network_id());
    assert_eq!(parsed.params().vote_interval_seconds, 2);
}

#[test]
fn an_edited_file_is_refused() {
    let text = testkit::network(3).to_toml().unwrap();
    for (from, to) in [
        ("vote_interval_seconds = 2", "vote_interval_seconds = 3"),
        ("127.0.0.1:5001", "127.0.0.1:5009"),
        ("name = \"test\"", "name = \"tess\""),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        let refused = NetworkFile::parse(&text.replacen(from, to, 1));
        assert_eq!(refused, Err(DocError::BadSignature.into()), "{from}");
    }
}

#[test]
fn signatures_of_more_than_half_are_needed() {
    let mut draft = testkit::draft(4);
    draft.sign(&signing_key(1)).unwrap();
    draft.sign(&signing_key(1)).unwrap();
    draft.sign(&signing_key(2)).unwrap();
    let few = DocError::TooFewSignatures { have: 2, need: 3 };
    assert_eq!(draft.clone().finish(), Err(few.into()));
    let mut draft = NetworkDraft::parse(&draft.to_toml().unwrap()).unwrap();
    draft.sign(&signing_key(4)).unwrap();
    assert!(draft.finish().is_ok());
    assert!(testkit::draft(4).sign(&signing_key(9)).is_err());
    assert!(testkit::draft(4).sign(&testkit::link_key(1)).is_err());
}

#[test]
fn every_refusal_of_the_text() {
    let text = testkit::network(3).to_toml().unwrap();
    let signature = text.split("[[signature]]").last().unwrap();
    let doubled = format!("{text}\n[[signature]]{signature}");
    assert!(matches!(
        NetworkFile::parse(&doubled),
        Err(NetworkFileError::Rule(_))
    ));
    for (from, to) in [
        ("format = 1", "format = 2"),
        ("format = 1", "formal = 1"),
        ("format = 1", "format = 1\nextra = 1"),
        ("127.0.0.1:5001", "0.0.0.0:5001"),
        ("127.0.0.1:5001", "127.0.0.1:0"),
        ("127.0.0.1:5001", "localhost:5001"),
        ("identity = \"", "identity = \"0"),
        ("ed25519", "rsa"),
        ("vote_interval_seconds", "Vote"),
        ("name = \"test\"", "name = \"\""),
        ("name = \"test\"", "name = \"t\\u001b\""),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(
            NetworkFile::parse(&text.replacen(from, to, 1)).is_err(),
            "{from} {to}"
        );
    }
    assert!(NetworkFile::parse(&"#".repeat(MAX_NETWORK_FILE_BYTES + 1)).is_err());
    assert!(NetworkFile::parse("").is_err());
}

#[test]
fn broken_rules() {
    let check = |edit: fn(&mut Body)| {
        let mut body = testkit::draft(3).body;
        edit(&mut body);
        body.validate()
    };
    assert_eq!(check(|_| ()), Ok(()));
    assert!(check(|body| body.authorities.clear()).is_err());
    assert!(check(|body| body.authorities.swap(0, 1)).is_err());
    assert!(
        check(|body| body.authorities[0].signing_key = body.authorities[1].signing_key).is_err()
    );
    assert!(
        check(|body| body.authorities[0].signing_key = body.authorities[0].identity.0).is_err()
    );
    assert!(check(|body| body.authorities[0].addresses.clear()).is_err());
    assert!(check(|body| body.authorities[0].name.clear()).is_err());
}

#[test]
fn an_entry_survives_alone() {
    let network = testkit::network(1);
    let entry = &network.authorities()[0];
    assert_eq!(AuthorityEntry::parse(&entry.to_toml()).as_ref(), Ok(entry));
    assert!(AuthorityEntry::parse("[authority]\nname = \"x\"").is_err());
}
