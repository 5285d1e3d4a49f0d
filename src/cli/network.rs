//! `cepa network`: the network's file, drafted, signed by several hands, and revised.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cepa_common::dir::{
    AuthorityEntry, Digest, Fallback, NetworkDraft, NetworkFile, NetworkFileError, Signatories,
    UnixSecs,
};
use cepa_common::ids::RelayId;
use cepa_common::words::At;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::authority::{load_signing_key, parse_param};
use super::consensus::{parse_time, say_json};
use super::context::now;
use crate::node::{read_network, write_out};
use crate::terminal::output::{note, say};
use crate::terminal::{CliError, FAILED};

/// Look after a network's file: draft it, sign it, revise it.
///
/// A network's file names its authorities and is signed by more than half of them. To change anything
/// in it is to make the next revision: draft it, have it signed by more than half of the new
/// authorities and more than half of those before, each on his own machine, and hand it to the
/// authorities. All others fetch it by themselves. docs/own-network.md goes through all cases.
#[derive(Debug, Subcommand)]
pub(super) enum Network {
    Draft(Draft),
    Sign(Sign),
    Finish(Finish),
    Show(Show),
    Verify(Verify),
}

/// Draft a new network's file from its authorities' entries, or the next revision of one.
///
/// Nobody has signed it yet: send it to the operators of all authorities, old and new.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa network draft --name mynet --add oak.toml --add elm.toml --add ash.toml
  cepa network draft --from network.toml --add fir/entry.toml --effective-in 3d
  cepa network draft --from network.toml --remove elm
  cepa network draft --from network.toml --replace oak/entry.toml
  cepa network draft --from network.toml --param vote_interval_seconds=1800")]
pub(super) struct Draft {
    /// The network's file as it is now: draft its next revision.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The network's name [default: that of --from].
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present = "from",
        conflicts_with = "from"
    )]
    name: Option<String>,
    /// An authority that joins: its entry.toml, which `cepa authority key` makes; may be repeated.
    #[arg(long, value_name = "FILE")]
    add: Vec<PathBuf>,
    /// An authority that leaves, by name; may be repeated.
    #[arg(long, value_name = "NAME", requires = "from")]
    remove: Vec<String>,
    /// An authority that gets new keys or addresses: its new entry, under its old name.
    #[arg(long, value_name = "FILE", requires = "from")]
    replace: Vec<PathBuf>,
    /// A parameter of the network; may be repeated. docs/protocol.md lists them.
    #[arg(long = "param", value_name = "NAME=NUMBER", value_parser = parse_param)]
    params: Vec<(String, u32)>,
    /// A parameter that goes back to its default; may be repeated.
    #[arg(long, value_name = "NAME", requires = "from")]
    unset_param: Vec<String>,
    /// A relay that newcomers may ask for the directory; may be repeated.
    #[arg(long, value_name = "IDENTITY=ADDR:PORT", value_parser = parse_fallback)]
    fallback: Vec<Fallback>,
    /// A relay that is such no more, by identity; may be repeated.
    #[arg(long, value_name = "IDENTITY", requires = "from")]
    remove_fallback: Vec<String>,
    /// How long from now the revision shall count. All authorities must have it by then, so that they
    /// change in the same period.
    #[arg(long, value_name = "SPAN", default_value = "2d", value_parser = humantime::parse_duration, requires = "from")]
    effective_in: Duration,
    /// The time from which it shall count (RFC 3339, or seconds since 1970).
    #[arg(long, value_name = "TIME", value_parser = parse_time, requires = "from", conflicts_with = "effective_in")]
    effective_after: Option<UnixSecs>,
    /// Where to write the draft.
    #[arg(long, value_name = "FILE", default_value = "draft.toml")]
    out: PathBuf,
}

/// Sign a draft with an authority's long-term key.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa network sign draft.toml --key oak/state/keys/authority
  cepa network sign draft.toml --key /media/stick/oak --out oak-signed.toml
  cepa network sign draft.toml --key /media/stick/oak --network network.toml")]
pub(super) struct Sign {
    /// The draft; your signature is added to it, or to the copy that --out names.
    #[arg(value_name = "DRAFT")]
    draft: PathBuf,
    /// The file of the authority's long-term signing key.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The network's file before this revision: needed by an authority that leaves or changes its key.
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// Write the signed draft here and leave the draft as it is; never replaces a file that is there.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Merge the signed copies of a draft into the network's file, once enough have signed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa network finish oak.toml elm.toml ash.toml --out network.toml
  cepa network finish draft-*.toml --network network.toml --out network-1.toml")]
pub(super) struct Finish {
    /// Copies of the draft, each with one signature or more.
    #[arg(value_name = "COPY", required = true)]
    copies: Vec<PathBuf>,
    /// The network's file before this revision: more than half of its authorities must have signed.
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// Write a revision that more than half of the authorities before did not sign. Nobody takes it by
    /// himself: every user and relay has to be given it by hand.
    #[arg(long)]
    by_hand: bool,
    /// Where to write the network's file; never replaced unless it is that of --network.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Show a network's file or a draft: what it says, who has signed, and who is missing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa network show network.toml
  cepa network show draft.toml --network network.toml --json")]
pub(super) struct Show {
    /// The network's file, or a draft.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The network's file before: show who of its authorities has signed.
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// Write JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Check a network's file; with --network also that it follows from that one.
///
/// The exit code is 0 when more than half of its authorities have signed, else 1.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa network verify network.toml
  cepa network verify network-1.toml --network network.toml")]
pub(super) struct Verify {
    /// The network's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// An earlier revision that it must follow from.
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
}

/// Reads `IDENTITY=ADDR:PORT`.
fn parse_fallback(text: &str) -> Result<Fallback, String> {
    let (identity, address) = text.split_once('=').ok_or("write IDENTITY=ADDR:PORT")?;
    let bytes = Digest::from_hex(identity)
        .ok_or("an identity has 64 hex digits")?
        .0;
    let address = address
        .parse()
        .map_err(|_| format!("`{address}` is no ADDRESS:PORT"))?;
    Ok(Fallback {
        identity: RelayId(bytes),
        addresses: vec![address],
    })
}

fn invalid(path: &Path, error: &NetworkFileError) -> CliError {
    CliError::failed(
        format!("{}: {error}", path.display()),
        "docs/protocol.md, 6.3, has the rules for the network's file",
    )
}

fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|error| {
        CliError::usage(
            format!("cannot read {}: {error}", path.display()),
            "name a file that is there",
        )
    })
}

fn read_draft(path: &Path) -> Result<NetworkDraft, CliError> {
    NetworkDraft::parse(&read(path)?).map_err(|error| invalid(path, &error))
}

fn read_entry(path: &Path) -> Result<AuthorityEntry, CliError> {
    AuthorityEntry::parse(&read(path)?).map_err(|error| invalid(path, &error))
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    Ok(write_out(path, text.as_bytes())?)
}

fn write_draft(path: &Path, draft: &NetworkDraft) -> Result<(), CliError> {
    let text = draft.to_toml().map_err(|error| invalid(path, &error))?;
    write(path, &text)
}

impl Network {
    pub(super) fn main(self) -> Result<ExitCode, CliError> {
        match self {
            Self::Draft(draft) => draft.main(),
            Self::Sign(sign) => sign.main(),
            Self::Finish(finish) => finish.main(),
            Self::Show(show) => show.main(),
            Self::Verify(verify) => verify.main(),
        }
    }
}

impl Draft {
    fn main(self) -> Result<ExitCode, CliError> {
        if self.out.exists() {
            return Err(CliError::usage(
                format!("{} is there already", self.out.display()),
                "choose another --out: it may hold signatures",
            ));
        }
        let before = self.from.as_deref().map(read_network).transpose()?;
        let draft = match &before {
            Some(before) => {
                let after = self.effective_after;
                let after = after.unwrap_or_else(|| now() + self.effective_in.as_secs());
                NetworkDraft::revise(before, after)
            }
            None => NetworkDraft::new(
                self.name.as_deref().unwrap_or_default(),
                Vec::new(),
                BTreeMap::new(),
            ),
        };
        let authorities = self.authorities(draft.authorities())?;
        let mut params = draft.param_pairs().clone();
        params.extend(self.params.iter().cloned());
        params.retain(|name, _| !self.unset_param.contains(name));
        let mut fallbacks = draft.fallbacks().to_vec();
        fallbacks.retain(|held| {
            let replaced = |new: &Fallback| new.identity == held.identity;
            let name = held.identity.to_string();
            !self.remove_fallback.contains(&name) && !self.fallback.iter().any(replaced)
        });
        fallbacks.extend(self.fallback.iter().cloned());
        let draft = draft
            .with_authorities(authorities)
            .with_params(params)
            .with_fallbacks(fallbacks);
        // A broken rule is better named now than when all have signed.
        let text = draft
            .to_toml()
            .map_err(|error| invalid(&self.out, &error))?;
        NetworkDraft::parse(&text).map_err(|error| invalid(&self.out, &error))?;
        write(&self.out, &text)?;
        print_status(&draft, before.as_ref(), &self.out)?;
        Ok(ExitCode::SUCCESS)
    }

    fn authorities(&self, before: &[AuthorityEntry]) -> Result<Vec<AuthorityEntry>, CliError> {
        let mut list = before.to_vec();
        let unknown = |name: &str| {
            let names: Vec<_> = before.iter().map(|a| a.name.as_str()).collect();
            CliError::usage(
                format!("no authority is called {name}"),
                format!("they are {}", names.join(", ")),
            )
        };
        for name in &self.remove {
            if !list.iter().any(|held| held.name == *name) {
                return Err(unknown(name));
            }
            list.retain(|held| held.name != *name);
        }
        for path in &self.replace {
            let entry = read_entry(path)?;
            let at = list.iter().position(|held| held.name == entry.name);
            let at = at.ok_or_else(|| unknown(&entry.name))?;
            list.splice(at..=at, [entry]);
        }
        for path in &self.add {
            let entry = read_entry(path)?;
            if list.iter().any(|held| held.name == entry.name) {
                return Err(CliError::usage(
                    format!("there is an authority called {} already", entry.name),
                    "--replace gives it new keys or addresses",
                ));
            }
            list.push(entry);
        }
        Ok(list)
    }
}

impl Sign {
    fn main(self) -> Result<ExitCode, CliError> {
        let mut draft = read_draft(&self.draft)?;
        let to = self.out.as_ref().unwrap_or(&self.draft);
        if self.out.is_some() && to.exists() {
            return Err(CliError::usage(
                format!("{} is there already", to.display()),
                "choose another --out: it may hold signatures",
            ));
        }
        let before = self.network.as_deref().map(read_network).transpose()?;
        let key = load_signing_key(&self.key)?;
        let public = key.verifying_key().to_bytes();
        let former = before.as_ref().map_or(&[][..], NetworkFile::authorities);
        let mut known = draft.authorities().iter().chain(former);
        let Some(signer) = known.find(|authority| authority.signing_key == public) else {
            return Err(CliError::failed(
                format!(
                    "{} is the key of no authority that the draft names",
                    self.key.display()
                ),
                "an authority that leaves or changes its key names the file before by --network FILE",
            ));
        };
        let name = signer.name.clone();
        draft
            .sign(&key)
            .map_err(|error| invalid(&self.draft, &error))?;
        write_draft(to, &draft)?;
        say(&format!("{name} has signed {}", to.display()));
        print_status(&draft, before.as_ref(), to)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Finish {
    fn main(self) -> Result<ExitCode, CliError> {
        let before = self.network.as_deref().map(read_network).transpose()?;
        let may_replace = self.network.as_ref() == Some(&self.out);
        if self.out.exists() && !may_replace {
            return Err(CliError::usage(
                format!("{} is there already", self.out.display()),
                "choose another --out, or name it by --network too if it is the revision before",
            ));
        }
        let mut merged: Option<NetworkDraft> = None;
        for path in &self.copies {
            let copy = read_draft(path)?;
            match &mut merged {
                Some(draft) => draft.merge(&copy).map_err(|error| invalid(path, &error))?,
                None => merged = Some(copy),
            }
        }
        let Some(draft) = merged else {
            return Err(CliError::usage("no copy of a draft", "name one or more"));
        };
        if draft.revision() > 0 && before.is_none() && !self.by_hand {
            return Err(CliError::usage(
                "this is a later revision of a network's file",
                "name the file before by --network FILE: more than half of its authorities must have signed",
            ));
        }
        let of_new = draft.signatories();
        let of_new = of_new.map_err(|error| invalid(&self.out, &error))?;
        let of_old = former(&draft, before.as_ref(), &self.out)?;
        print_status(&draft, before.as_ref(), &self.out)?;
        let mut missing = Vec::new();
        missing.extend((!of_new.is_enough()).then(|| lack("its own authorities", &of_new)));
        if let Some(of_old) = of_old.filter(|of_old| !of_old.is_enough() && !self.by_hand) {
            missing.push(lack("the authorities before", &of_old));
        }
        if !missing.is_empty() {
            return Err(CliError::failed(
                missing.join("; "),
                "have them sign a copy of the draft with `cepa network sign`, and name all copies",
            ));
        }
        let file = draft.finish().map_err(|error| invalid(&self.out, &error))?;
        if let Some(before) = before.as_ref().filter(|_| !self.by_hand) {
            before
                .verify_successor(&file)
                .map_err(|error| invalid(&self.out, &error))?;
        }
        let text = file.to_toml().map_err(|error| invalid(&self.out, &error))?;
        write(&self.out, &text)?;
        say(&format!(
            "{} is revision {} of network {} ({})",
            self.out.display(),
            file.revision(),
            file.name(),
            file.network_id()
        ));
        Ok(ExitCode::SUCCESS)
    }
}

fn former(
    draft: &NetworkDraft,
    before: Option<&NetworkFile>,
    path: &Path,
) -> Result<Option<Signatories>, CliError> {
    let who = before.map(|before| draft.signatories_among(before.authorities()));
    who.transpose().map_err(|error| invalid(path, &error))
}

fn lack(whose: &str, who: &Signatories) -> String {
    format!(
        "{whose}: {} signed, {} needed; missing: {}",
        who.signed.len(),
        who.need,
        who.missing.join(", ")
    )
}

/// What a network's file says, for people and scripts.
#[derive(Serialize)]
struct FileView {
    name: String,
    network_id: String,
    revision: u32,
    effective_after: Option<String>,
    authorities: Vec<AuthorityView>,
    fallbacks: Vec<FallbackView>,
    params: BTreeMap<String, u32>,
    signed: SignedView,
    signed_before: Option<SignedView>,
}

#[derive(Serialize)]
struct AuthorityView {
    name: String,
    identity: String,
    signing_key: String,
    addresses: Vec<std::net::SocketAddr>,
}

#[derive(Serialize)]
struct FallbackView {
    identity: String,
    addresses: Vec<std::net::SocketAddr>,
}

/// Who has signed.
#[derive(Serialize)]
struct SignedView {
    signed: Vec<String>,
    missing: Vec<String>,
    need: usize,
    enough: bool,
}

impl From<Signatories> for SignedView {
    fn from(who: Signatories) -> Self {
        Self {
            enough: who.is_enough(),
            signed: who.signed,
            missing: who.missing,
            need: who.need,
        }
    }
}

impl SignedView {
    fn line(&self, whose: &str) -> String {
        let list = |names: &[String]| match names {
            [] => "nobody".to_owned(),
            some => some.join(", "),
        };
        format!(
            "{whose}: {} signed, {} needed: {}; missing: {}",
            self.signed.len(),
            self.need,
            list(&self.signed),
            list(&self.missing)
        )
    }
}

fn view(
    draft: &NetworkDraft,
    before: Option<&NetworkFile>,
    path: &Path,
) -> Result<FileView, CliError> {
    let bad = |error: NetworkFileError| invalid(path, &error);
    let authorities = draft.authorities().iter().map(|authority| AuthorityView {
        name: authority.name.clone(),
        identity: authority.identity.to_string(),
        signing_key: Digest(authority.signing_key).to_string(),
        addresses: authority.addresses.clone(),
    });
    let fallbacks = draft.fallbacks().iter().map(|fallback| FallbackView {
        identity: fallback.identity.to_string(),
        addresses: fallback.addresses.clone(),
    });
    Ok(FileView {
        name: draft.name().to_owned(),
        network_id: draft.network_id().map_err(bad)?.to_string(),
        revision: draft.revision(),
        effective_after: (draft.revision() > 0).then(|| At(draft.effective_after()).to_string()),
        authorities: authorities.collect(),
        fallbacks: fallbacks.collect(),
        params: draft.param_pairs().clone(),
        signed: draft.signatories().map_err(bad)?.into(),
        signed_before: former(draft, before, path)?.map(SignedView::from),
    })
}

fn print_status(
    draft: &NetworkDraft,
    before: Option<&NetworkFile>,
    path: &Path,
) -> Result<(), CliError> {
    let view = view(draft, before, path)?;
    note(&view.signed.line("its own authorities"));
    if let Some(before) = &view.signed_before {
        note(&before.line("the authorities before"));
    }
    Ok(())
}

impl Show {
    fn main(self) -> Result<ExitCode, CliError> {
        let draft = read_draft(&self.file)?;
        let before = self.network.as_deref().map(read_network).transpose()?;
        let view = view(&draft, before.as_ref(), &self.file)?;
        if self.json {
            say_json(&view)?;
            return Ok(ExitCode::SUCCESS);
        }
        say(&format!("network   {} ({})", view.name, view.network_id));
        say(&format!("revision  {}", view.revision));
        if let Some(from) = &view.effective_after {
            say(&format!("counts    from {from} on"));
        }
        for authority in &view.authorities {
            let addresses: Vec<_> = authority
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect();
            say(&format!(
                "authority {} at {}",
                authority.name,
                addresses.join(", ")
            ));
            say(&format!("          identity    {}", authority.identity));
            say(&format!("          signing key {}", authority.signing_key));
        }
        for fallback in &view.fallbacks {
            let addresses: Vec<_> = fallback.addresses.iter().map(ToString::to_string).collect();
            say(&format!(
                "fallback  {} at {}",
                fallback.identity,
                addresses.join(", ")
            ));
        }
        for (name, value) in &view.params {
            say(&format!("parameter {name} = {value}"));
        }
        say(&view.signed.line("its own authorities"));
        if let Some(before) = &view.signed_before {
            say(&before.line("the authorities before"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Verify {
    fn main(self) -> Result<ExitCode, CliError> {
        let refused = |error: NetworkFileError| {
            say(&format!("REFUSED: {}: {error}", self.file.display()));
            Ok(ExitCode::from(FAILED))
        };
        let file = match NetworkFile::parse(&read(&self.file)?) {
            Ok(file) => file,
            Err(error) => return refused(error),
        };
        if let Some(before) = self.network.as_deref().map(read_network).transpose()?
            && let Err(error) = before.verify_successor(&file)
        {
            return refused(error);
        }
        say(&format!(
            "good: revision {} of network {} ({})",
            file.revision(),
            file.name(),
            file.network_id()
        ));
        Ok(ExitCode::SUCCESS)
    }
}
