//! The statement that decides a batch: its values, its answers, and the texts that PostgreSQL refuses. Does IO.

use std::collections::HashMap;

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{PostgresClaims, Session, timestamp};
use crate::store::{ClaimRequest, Claimed, Connection, StoreError, Verdict, Wanted};
use crate::trigger_ids::trigger_id;

/// The end of the year 9999, in milliseconds since 1970.
const LATEST_MS: i64 = 253_402_300_799_999;

impl PostgresClaims {
    /// Decides a request on a session.
    pub(super) async fn claim_on(&self, session: &Session, request: &ClaimRequest) -> Result<Verdict, StoreError> {
        let Session { connection, claim, deployment, .. } = session;
        let spans = &request.spans;
        let partition: Vec<i32> = spans.iter().map(|(span, _)| span.partition).collect();
        let column = |of: fn(&(crate::intake::PartitionSpan, crate::rules::PartitionCounts)) -> i64| -> Vec<i64> {
            spans.iter().map(of).collect()
        };
        let wanted = &request.wanted;
        let texts = |of: fn(&Wanted) -> &str| -> Vec<&str> { wanted.iter().map(of).collect() };
        let ids = |of: fn(&Wanted) -> Uuid| -> Vec<Uuid> { wanted.iter().map(of).collect() };
        let pieces = PieceColumns::of(request);
        // Missing ones are null in SQL.
        let former_ids = if deployment.looks_back {
            ids(|wanted| trigger_id(wanted.pipeline_id, &wanted.ticker, &wanted.text.signal_id))
        } else {
            Vec::new()
        };
        let values: [&(dyn ToSql + Sync); 38] = [
            &self.terms.key.group,
            &self.terms.key.topic,
            &partition,
            &column(|(span, _)| span.epoch),
            &column(|(span, _)| span.first_offset),
            &column(|(span, _)| span.next_offset),
            &column(|(span, _)| span.consumed),
            &column(|(_, counts)| counts.unmatched),
            &column(|(_, counts)| counts.merged),
            &column(|(_, counts)| counts.redelivered),
            &column(|(span, _)| span.stale),
            &column(|(span, _)| span.invalid),
            &ids(|wanted| wanted.text.trigger_id),
            &ids(|wanted| wanted.pipeline_id),
            &texts(|wanted| &wanted.ticker),
            &texts(|wanted| &wanted.text.signal_id),
            &texts(|wanted| &wanted.text.symbol),
            &texts(|wanted| &wanted.text.head),
            &wanted.iter().map(|wanted| wanted.partition).collect::<Vec<_>>(),
            &wanted.iter().map(|wanted| wanted.offset).collect::<Vec<_>>(),
            &wanted.iter().map(|wanted| wanted.shared).collect::<Vec<_>>(),
            &request.publication_id,
            &self.terms.lease.as_secs_f64(),
            &self.unwritten,
            &self.terms.active,
            &self.terms.over,
            &request.goes_on,
            &column(|(_, counts)| counts.triggered),
            &column(|(_, counts)| counts.busy),
            &deployment.id,
            // Within what PostgreSQL can hold, whatever a producer has written.
            &wanted.iter().map(|wanted| wanted.record_time_ms.clamp(0, LATEST_MS)).collect::<Vec<_>>(),
            &former_ids,
            &self.terms.evidence.trusts_time(),
            &request.pieces.text(),
            &pieces.starts,
            &pieces.bytes,
            &pieces.first,
            &pieces.last,
        ];
        let rows = connection.query_prepared(claim, &values).await?;
        let row = rows.first().ok_or_else(|| StoreError::Schema("the claim gave no row".to_owned()))?;
        let word: String = row.try_get(0).map_err(StoreError::Answer)?;
        match word.as_str() {
            "claimed" => Ok(Verdict::Claimed(Claimed {
                won: positions(row, 2)?,
                known: positions(row, 3)?,
                leased_until: timestamp(row, 1)?,
                is_repeated: false,
                unknown_statuses: row.try_get(5).map_err(StoreError::Answer)?,
            })),
            "known" => Ok(Verdict::Known(positions(row, 3)?)),
            "repeated" => self.repeated(connection, request).await,
            _ => Ok(Verdict::Fenced(row.try_get(4).map_err(StoreError::Answer)?)),
        }
    }

    /// What an earlier attempt of this batch has claimed. A statement of its own: the first cannot see what was
    /// committed while it waited.
    async fn repeated(&self, connection: &Connection, request: &ClaimRequest) -> Result<Verdict, StoreError> {
        let rows = connection
            .query(
                // A sweeper may have renewed some of the leases. The earliest end counts for all tasks, so it is read last.
                "select t.trigger_id, (extract(epoch from t.leased_until) * 1000000)::bigint
                 from dispatcher.publications p
                 join dispatcher.triggers t on t.trigger_id = any (p.trigger_ids) and t.publication_id = p.publication_id
                 where p.publication_id = $1 order by t.leased_until desc",
                &[&request.publication_id],
            )
            .await?;
        let position: HashMap<Uuid, usize> =
            request.wanted.iter().enumerate().map(|(position, wanted)| (wanted.text.trigger_id, position)).collect();
        let mut claimed = Claimed {
            won: Vec::new(),
            known: Vec::new(),
            leased_until: Timestamp::UNIX_EPOCH,
            is_repeated: true,
            unknown_statuses: Vec::new(),
        };
        for row in &rows {
            let id: Uuid = row.try_get(0).map_err(StoreError::Answer)?;
            claimed.leased_until = timestamp(row, 1)?;
            claimed.won.extend(position.get(&id));
        }
        claimed.won.sort_unstable();
        if request.goes_on {
            // Its records are not counted yet.
            let ids: Vec<&Uuid> = position.keys().collect();
            let sql = "select trigger_id from dispatcher.triggers where trigger_id = any ($1::uuid[])";
            for row in connection.query(sql, &[&ids]).await? {
                let id: Uuid = row.try_get(0).map_err(StoreError::Answer)?;
                claimed.known.extend(position.get(&id).filter(|position| claimed.won.binary_search(position).is_err()));
            }
            claimed.known.sort_unstable();
        }
        Ok(Verdict::Claimed(claimed))
    }
}

/// The pieces of all candidates' arguments, in columns.
struct PieceColumns {
    /// Where each piece of the lists begins in the request's text, counted from 1 as SQL does, and its bytes.
    starts: Vec<i32>,
    bytes: Vec<i32>,
    /// For each candidate the positions of its first and its last piece, counted from 1.
    first: Vec<i32>,
    last: Vec<i32>,
}

impl PieceColumns {
    fn of(ClaimRequest { pieces, wanted, .. }: &ClaimRequest) -> Self {
        let number = |count: usize| i32::try_from(count).expect("a request has less than 2 GiB of text");
        let spans = || pieces.lists().iter().map(|piece| pieces.span(*piece));
        let lists = || wanted.iter().map(|wanted| wanted.text.pieces.positions());
        Self {
            starts: spans().map(|(start, _)| number(start as usize + 1)).collect(),
            bytes: spans().map(|(_, bytes)| number(bytes as usize)).collect(),
            first: lists().map(|list| number(list.start + 1)).collect(),
            last: lists().map(|list| number(list.end)).collect(),
        }
    }
}

/// Positions whose text PostgreSQL refuses, found by halving: an error does not say which value it is about.
pub(super) async fn unstorable(connection: &Connection, request: &ClaimRequest) -> Result<Vec<usize>, StoreError> {
    let mut found = Vec::new();
    let mut ranges = vec![(0, &*request.wanted)];
    while let Some((start, range)) = ranges.pop() {
        let texts = |of: fn(&Wanted) -> &str| -> Vec<&str> { range.iter().map(of).collect() };
        let (tickers, ids, symbols) =
            (texts(|wanted| &wanted.ticker), texts(|wanted| &wanted.text.signal_id), texts(|wanted| &wanted.text.symbol));
        let kwargs: Vec<String> = range.iter().map(|wanted| wanted.text.kwargs(&request.pieces)).collect();
        match connection.query(STORABLE, &[&tickers, &ids, &symbols, &kwargs]).await {
            Ok(_) => {}
            Err(error) if !error.is_about_data() => return Err(error),
            Err(_) if range.len() == 1 => found.push(start),
            Err(_) => {
                let (left, right) = range.split_at(range.len() / 2);
                ranges.extend([(start + left.len(), right), (start, left)]);
            }
        }
    }
    Ok(found)
}

/// Fails as the claim does when a text cannot be held, and does nothing.
const STORABLE: &str = "select count(ticker), count(signal_id), count(symbol), count(kwargs::json)
    from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as w (ticker, signal_id, symbol, kwargs)";

/// SQL counts from 1.
fn positions(row: &Row, column: usize) -> Result<Vec<usize>, StoreError> {
    let positions: Vec<i64> = row.try_get(column).map_err(StoreError::Answer)?;
    Ok(positions.into_iter().filter_map(|position| usize::try_from(position - 1).ok()).collect())
}
