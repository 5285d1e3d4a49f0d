//! `cepa bench` measures what a network carries on this machine, and what that costs.
//!
//! [`rows`] says how each row is measured, through the ways of [`way`] to the destination of [`server`], and with the
//! datagrams of [`datagrams`]. [`usage`]
//! reads what the processes used. [`report`] and [`html`] show the results. This file does all that in order.

mod datagrams;
mod html;
mod report;
mod rows;
mod server;
mod usage;
mod way;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use cepa_common::net::emulate::Conditions;
use cepa_common::state::write_whole;
use cepa_common::world::Disk;

use crate::config::{self, Config, MultipathKind};
use crate::node::{AppError, write_out};
use crate::terminal::output::{Meter, note, say};
use crate::terminal::stop::{Cause, Stop};
use crate::terminal::{CliError, NETWORK};
use crate::testnet::{Local, Shape};
use report::{Machine, Report, Row, Setting};
use rows::{Field, Kind, ROWS};
use server::Server;
use usage::Roles;
use way::{Helper, PlainChain, Way, new_user};

/// Pause between two rows.
const SETTLE: Duration = Duration::from_millis(500);

/// What the user asks for.
#[derive(Debug)]
pub(crate) struct Options {
    /// The file of a network that runs, or the shape of a local one.
    pub(crate) network: Result<PathBuf, Shape>,
    /// Does each node of a local network have a process of its own?
    pub(crate) processes: bool,
    /// Delay, bandwidth and loss of links.
    pub(crate) conditions: Conditions,
    pub(crate) multipath: MultipathKind,
    /// Address on which the destination listens.
    pub(crate) target: SocketAddr,
    /// The rows to measure; all rows if this is empty.
    pub(crate) only: Vec<String>,
    /// How long each row is measured.
    pub(crate) duration: Duration,
    /// File for the JSON; `-` for standard output, in place of the table.
    pub(crate) json: Option<PathBuf>,
    /// File for the page.
    pub(crate) html: Option<PathBuf>,
}

/// The names of all rows.
pub(crate) fn row_names() -> Vec<&'static str> {
    ROWS.iter().map(|row| row.0).collect()
}

/// The network that is measured.
enum Network {
    Local(Box<Local>),
    Given {
        client: Box<Helper>,
        socks: SocketAddr,
    },
}

impl Network {
    async fn start(options: &Options, dir: &Path) -> Result<Self, CliError> {
        match &options.network {
            Err(shape) => {
                let local = Local::start(shape, options.processes, dir).await?;
                Ok(Self::Local(Box::new(local)))
            }
            Ok(file) => {
                let meter = Meter::new();
                meter.show(0, "the client joins the network");
                let client = start_client(file, options.multipath, dir).await?;
                let socks = client.said.rsplit("//").next().map(str::parse);
                let Some(Ok(socks)) = socks else {
                    return Err(CliError::failed(
                        "the client did not say where it listens",
                        "report this: it is a bug",
                    ));
                };
                Ok(Self::Given {
                    client: Box::new(client),
                    socks,
                })
            }
        }
    }

    fn socks(&self) -> SocketAddr {
        match self {
            Self::Local(local) => local.socks(),
            Self::Given { socks, .. } => *socks,
        }
    }

    fn roles(&self) -> Roles {
        let mut roles = Roles::new();
        match self {
            Self::Local(local) => {
                for (role, pid) in local.pids() {
                    let name = format!("{role:?}").to_lowercase();
                    roles.entry(name).or_default().push(pid);
                }
                if roles.is_empty() {
                    // With one process, its figures include the load itself: they are the sum of everything.
                    roles.insert("process".to_owned(), vec![std::process::id()]);
                }
            }
            Self::Given { client, .. } => {
                roles.insert("client".to_owned(), client.pid().into_iter().collect());
            }
        }
        roles
    }
}

/// Starts a client of the network of `file`, in a process of its own that ends with this one.
async fn start_client(
    file: &Path,
    multipath: MultipathKind,
    dir: &Path,
) -> Result<Helper, CliError> {
    let file = std::fs::canonicalize(file).map_err(|error| {
        CliError::usage(
            format!("cannot read {}: {error}", file.display()),
            "name the network's file, or leave --network away for a local network",
        )
    })?;
    let config = Config {
        network: config::Network { file },
        state: config::State {
            dir: dir.join("client"),
            check_permissions: false,
        },
        client: Some(config::Client {
            socks: SocketAddr::from(([127, 0, 0, 1], 0)),
            allow_private: true,
            multipath,
            ..Default::default()
        }),
        log: config::Log {
            file: Some(dir.join("client.log")),
            ..Default::default()
        },
        ..Config::default()
    };
    let path = dir.join("client.toml");
    write_whole(&Disk::Real, &path, config::print(&config).as_bytes(), 0o600)
        .map_err(AppError::from)?;
    let args = [
        "run".into(),
        "--exit-with-stdin".into(),
        "--config".into(),
        path.into(),
    ];
    Helper::start(&args).await.map_err(|error| CliError {
        what: format!("the client did not reach the network: {error}"),
        hint: "try `cepa consensus --network FILE`".to_owned(),
        code: NETWORK,
    })
}

/// Measures what `options` ask for, with files in `dir`.
pub(crate) async fn run(options: Options, dir: &Path) -> Result<ExitCode, CliError> {
    let mut stop = listen()?;
    let network = tokio::select! {
        cause = stop.requested() => return Ok(code(cause)),
        network = Box::pin(Network::start(&options, dir)) => network?,
    };
    let mut report = new_report(&options);
    let ended = {
        let measuring = Box::pin(measure(&options, &network, dir, &mut report));
        tokio::select! {
            done = measuring => Ok(done),
            cause = stop.requested() => Err(cause),
        }
    };
    if let Network::Local(local) = network {
        match &ended {
            Err(_) => local.kill().await,
            Ok(_) => local.stop(&mut stop).await,
        }
    }
    // Rows that were measured before an interrupt are still worth publishing.
    let published = publish(&options, &report);
    match ended {
        Err(cause) => Ok(code(cause)),
        Ok(done) => {
            done?;
            published?;
            let failed = report.rows.iter().any(|row| row.error.is_some());
            Ok(ExitCode::from(u8::from(failed)))
        }
    }
}

/// Forwards connections to `target` until standard input ends: this is one hop of the plain chain.
pub(crate) async fn plain_hop(target: SocketAddr) -> Result<ExitCode, CliError> {
    let stop = listen()?.with_stdin().map_err(io_failed)?;
    way::plain_hop(target, stop).await.map_err(io_failed)?;
    Ok(ExitCode::SUCCESS)
}

fn listen() -> Result<Stop, CliError> {
    Stop::listen().map_err(io_failed)
}

fn code(cause: Cause) -> ExitCode {
    ExitCode::from(128 + cause.number())
}

fn io_failed(error: std::io::Error) -> CliError {
    CliError::failed(
        format!("the bench cannot work here: {error}"),
        "check the limits of this account",
    )
}

fn new_report(options: &Options) -> Report {
    let conditions = &options.conditions;
    Report {
        format: report::FORMAT,
        version: env!("CARGO_PKG_VERSION"),
        begun: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        complete: false,
        machine: Machine {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            arch: std::env::consts::ARCH,
            os: std::env::consts::OS,
            optimised: !cfg!(debug_assertions),
            others: None,
        },
        network: Setting {
            file: options
                .network
                .as_ref()
                .ok()
                .map(|file| file.display().to_string()),
            relays: options.network.as_ref().err().map(|shape| shape.relays),
            processes: options.processes,
            delay_ms: conditions.delay.as_secs_f64() * 1e3,
            bandwidth: conditions.bandwidth,
            loss: conditions.loss,
            duration_s: options.duration.as_secs_f64(),
        },
        rows: Vec::new(),
    }
}

async fn measure(
    options: &Options,
    network: &Network,
    dir: &Path,
    report: &mut Report,
) -> Result<(), CliError> {
    let server = Server::start(options.target).await.map_err(io_failed)?;
    let chain = PlainChain::start(server.address, options.conditions)
        .await
        .map_err(io_failed)?;
    let field = Field {
        network: Way::Network {
            socks: network.socks(),
            target: server.address,
            user: new_user(),
        },
        plain: Way::Plain(chain.first),
        roles: network.roles(),
        plain_roles: Roles::from([("plain".to_owned(), chain.pids())]),
        sunk: server.sunk.clone(),
        come: server.come.clone(),
        duration: options.duration,
        // Windows open by round trips, so the time to warm up depends on the delay.
        warm_up: Duration::from_millis(500) + options.conditions.delay * 60,
    };
    let wanted: Vec<_> = ROWS
        .iter()
        .filter(|row| options.only.is_empty() || options.only.iter().any(|name| name == row.0))
        .collect();
    let everybody: Roles = [&field.roles, &field.plain_roles]
        .into_iter()
        .flat_map(|roles| roles.clone())
        .collect();
    let machine = usage::Machine::look(&everybody);
    let mut counting = None;
    let meter = Meter::new();
    for (number, (id, title, kind)) in wanted.iter().enumerate() {
        let percent = u8::try_from(number * 100 / wanted.len()).unwrap_or(100);
        meter.show(percent, title);
        // Bytes that the row before has left on their way must not count for this row.
        tokio::time::sleep(SETTLE + options.conditions.delay * 10).await;
        match (kind, &counting) {
            (Kind::UdpBytes(_), None) => counting = Some(start_counting(options, dir).await?),
            (Kind::UdpBytes(_), Some(_)) | (_, None) => {}
            (_, Some(_)) => stop_counting(counting.take()).await,
        }
        let (values, error) = match field.measure(*kind, counting.as_ref()).await {
            Ok(values) => (values, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let mut row = Row {
            id,
            title,
            error,
            values,
        };
        report.compare(&mut row);
        report.rows.push(row);
    }
    stop_counting(counting).await;
    let processors = report.machine.processors;
    report.machine.others = machine.and_then(|machine| machine.others(&everybody, processors));
    report.complete = true;
    Ok(())
}

/// Starts the small network whose links count what they carry. Bytes need no processes of their own, and the network
/// that is measured otherwise has no part that would slow it down.
async fn start_counting(options: &Options, dir: &Path) -> Result<Local, CliError> {
    let shape = Shape {
        authorities: 1,
        relays: 3,
        exits: 1,
        socks: SocketAddr::from(([127, 0, 0, 1], 0)),
        resolver: None,
        log_level: "warn".to_owned(),
        measure: false,
        conditions: options.conditions,
        counts_links: true,
        multipath: options.multipath,
        memory_mib: None,
        params: Default::default(),
    };
    Box::pin(Local::start(&shape, false, &dir.join("counting"))).await
}

async fn stop_counting(network: Option<Local>) {
    if let Some(network) = network {
        network.kill().await;
    }
}

fn publish(options: &Options, report: &Report) -> Result<(), CliError> {
    let json = serde_json::to_string_pretty(report).map_err(|error| {
        CliError::failed(
            format!("cannot write JSON: {error}"),
            "report this: it is a bug",
        )
    })?;
    let to_stdout = options.json.as_deref() == Some(Path::new("-"));
    if to_stdout {
        say(&json);
    } else {
        say(&html::setting(report));
        say(report.table().trim_end());
    }
    if let Some(path) = options.json.as_deref().filter(|_| !to_stdout) {
        write(path, &(json + "\n"))?;
    }
    if let Some(path) = &options.html {
        write(path, &html::page(report))?;
        note(&format!("the page is in {}", path.display()));
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    Ok(write_out(path, text.as_bytes())?)
}
