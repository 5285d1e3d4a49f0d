//! What a [`Client`] is asked of names: no name is ever looked up on this machine.

use std::net::IpAddr;

use cepa_common::cell::message::SpecialName;
use cepa_common::dns::{
    Answer, Heard, Query, Question, RecordType, ResponseCode, Unasked, read_query,
};
use cepa_common::ids::RelayId;
use cepa_common::stream::{StreamHost, StreamTarget};

use crate::StreamIo;
use crate::circuit::isolation::{IsolateBy, Isolation};
use crate::client::{Client, ConnectError};
use crate::names::{Exits, Unanswered};

/// The port that counts for a question where ports keep streams apart.
const DNS_PORT: u16 = 53;

/// Why nothing is known of a name.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The text is no name that an exit could be asked for.
    #[error("{0:?} is not a name")]
    BadName(String),
    /// The message is no DNS query.
    #[error("the message is no DNS query")]
    NotAQuery,
    /// The name is none of the DNS (docs/protocol.md, 5.3).
    #[error("the name is passed on to nobody: {0}")]
    Special(SpecialName),
    /// The address is not public, so that no exit knows its name.
    #[error("no exit knows the names of private addresses")]
    Private,
    /// Exits say that there is no such name.
    #[error("there is no such name")]
    NoSuchName,
    /// The name has no records of the type asked for, or none that may be told.
    #[error("the name has nothing of that kind")]
    NoRecords,
    /// Two exits were asked, and none has an answer.
    #[error("exits have no answer")]
    Failed,
    /// No exit could be asked.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Exits whose resolvers a client asks.
struct Resolvers<'a>(&'a Client);

impl Exits for Resolvers<'_> {
    type Stream = StreamIo;
    type Error = ConnectError;

    async fn open(
        &self,
        isolation: &Isolation,
        avoid: Option<RelayId>,
        first: &[u8],
    ) -> Result<(StreamIo, RelayId), ConnectError> {
        self.0
            .open(&StreamTarget::Resolver, isolation, first, avoid)
            .await
    }
}

impl Client {
    /// The addresses of a name, those of IPv4 first, as an exit knows them. While the client is starting, the call
    /// waits for that. Answers are remembered for a minute, for this client alone.
    ///
    /// ```no_run
    /// # async fn example(client: cepa_client::Client) -> Result<(), cepa_client::ResolveError> {
    /// let addresses = client.resolve("example.org").await?;
    /// let names = client.resolve_ptr(addresses[0]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ResolveError`], after another exit was asked where that could help.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let isolation = Isolation::session(self.session);
        self.resolve_by(self.inner.isolate_by, isolation, name)
            .await
    }

    /// The names of an address, as an exit knows them.
    ///
    /// # Errors
    /// [`ResolveError`], after another exit was asked where that could help.
    pub async fn resolve_ptr(&self, address: IpAddr) -> Result<Vec<String>, ResolveError> {
        let isolation = Isolation::session(self.session);
        self.resolve_ptr_by(self.inner.isolate_by, isolation, address)
            .await
    }

    /// Answers a DNS query, a whole message without its length (RFC 1035, section 4), by another message. An exit is
    /// asked in this client's own words. What may not be asked, and what comes to nothing, has an answer too.
    ///
    /// # Errors
    /// [`ResolveError::NotAQuery`], to which there is no answer.
    pub async fn query(&self, message: &[u8]) -> Result<Vec<u8>, ResolveError> {
        let query = match read_query(message).map_err(|_| ResolveError::NotAQuery)? {
            Heard::Query(query) => query,
            Heard::Refused(answer) => return Ok(answer),
        };
        let isolation = Isolation::session(self.session);
        let answer = self.answer_by(self.inner.isolate_by, isolation, &query);
        Ok(query.reply(&answer.await, usize::from(u16::MAX)))
    }

    /// The answer to a query, with switches of the caller's own. What comes to nothing has an answer too.
    pub(crate) async fn answer_by(
        &self,
        by: IsolateBy,
        isolation: Isolation,
        query: &Query,
    ) -> Answer {
        let asked = self.ask(by, isolation, &query.question).await;
        asked.unwrap_or_else(|error| match error {
            Unanswered::Unasked(why) => Answer::of(why.code()),
            Unanswered::Silent | Unanswered::Exit(_) => Answer::of(ResponseCode::ServFail),
        })
    }

    /// The addresses of a name like [`Client::resolve`], with switches of the caller's own.
    pub(crate) async fn resolve_by(
        &self,
        by: IsolateBy,
        isolation: Isolation,
        name: &str,
    ) -> Result<Vec<IpAddr>, ResolveError> {
        let question = |kind| {
            let question = Question::new(name, kind);
            question.ok_or_else(|| ResolveError::BadName(name.to_owned()))
        };
        let (v4, v6) = (question(RecordType::A)?, question(RecordType::AAAA)?);
        let (v4, v6) = tokio::join!(
            self.records(by, isolation.clone(), &v4),
            self.records(by, isolation, &v6)
        );
        let both: Vec<IpAddr> = [&v4, &v6]
            .into_iter()
            .flatten()
            .flat_map(Answer::addresses)
            .collect();
        match both.is_empty() {
            // What one of the questions came to says more than that the other has no records.
            true => Err(v4.err().or(v6.err()).unwrap_or(ResolveError::NoRecords)),
            false => Ok(both),
        }
    }

    /// The names of an address like [`Client::resolve_ptr`], with switches of the caller's own.
    pub(crate) async fn resolve_ptr_by(
        &self,
        by: IsolateBy,
        isolation: Isolation,
        address: IpAddr,
    ) -> Result<Vec<String>, ResolveError> {
        let question = Question::reverse(address.to_canonical());
        let answer = self.records(by, isolation, &question).await?;
        let names: Vec<String> = answer.names().collect();
        match names.is_empty() {
            true => Err(ResolveError::NoRecords),
            false => Ok(names),
        }
    }

    async fn records(
        &self,
        by: IsolateBy,
        isolation: Isolation,
        question: &Question,
    ) -> Result<Answer, ResolveError> {
        let asked = self.ask(by, isolation, question).await;
        let answer = asked.map_err(|error| match error {
            Unanswered::Unasked(Unasked::Special(name)) => ResolveError::Special(name),
            Unanswered::Unasked(Unasked::Private) => ResolveError::Private,
            Unanswered::Unasked(Unasked::Number | Unasked::Kind) => {
                ResolveError::BadName(question.name().to_owned())
            }
            Unanswered::Exit(error) => error.into(),
            Unanswered::Silent => ResolveError::Failed,
        })?;
        match answer.code() {
            ResponseCode::NoError => Ok(answer),
            ResponseCode::NXDomain => Err(ResolveError::NoSuchName),
            _ => Err(ResolveError::Failed),
        }
    }

    /// The answer to a question. Where destinations keep streams apart, the name is the destination.
    async fn ask(
        &self,
        by: IsolateBy,
        isolation: Isolation,
        question: &Question,
    ) -> Result<Answer, Unanswered<ConnectError>> {
        let host = StreamHost::Name(question.name().to_owned());
        let key = self.key(by, isolation, &host, DNS_PORT);
        let names = &self.inner.names;
        // What waits for a circuit takes much more memory than who waits.
        Box::pin(names.ask(&Resolvers(self), &key, question)).await
    }
}
