//! What an instance is asked about itself, and what its answer says.
//!
//! Pure. Understands plain PostgreSQL with streaming replication, Aurora, and RDS Multi-AZ clusters, which it tells by
//! the functions that they have. Source for these: the RDS and Aurora documentation of `aurora_replica_status()` and
//! `rds_tools.show_topology()`.

use std::time::Duration;

use super::roles::{Role, Said};

/// The values of one row; `None` is NULL.
pub type Row = Vec<Option<Vec<u8>>>;

/// What kind of cluster an instance belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Aurora,
    MultiAz,
}

/// The first question on a connection: which functions there are, for who asks.
pub const KIND: &str = "SELECT pg_catalog.bool_or(nspname = 'pg_catalog'), pg_catalog.bool_or(nspname = 'rds_tools') \
    FROM pg_catalog.pg_proc JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pronamespace \
    WHERE (nspname, proname) IN (('pg_catalog', 'aurora_replica_status'), ('rds_tools', 'show_topology')) \
    AND pg_catalog.has_schema_privilege(pg_namespace.oid, 'USAGE') \
    AND pg_catalog.has_function_privilege(pg_proc.oid, 'EXECUTE')";

/// An instance of the same cluster, as another tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    /// Its endpoint, where that is told.
    pub host: Option<String>,
    pub port: Option<u16>,
}

/// All that an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub said: Said,
    /// What the instance is called in its cluster, where it can tell.
    pub id: Option<String>,
    pub members: Vec<Member>,
}

/// An answer that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its answer about its role is not one")]
pub struct Unintelligible;

/// Rows of `aurora_replica_status()` that were not updated for so long tell of instances that are gone.
const STALE_SECONDS: u32 = 300;

impl Kind {
    pub fn read(rows: &[Row]) -> Result<Kind, Unintelligible> {
        let [row] = rows else {
            return Err(Unintelligible);
        };
        let [aurora, multi_az] = &**row else {
            return Err(Unintelligible);
        };
        Ok(match (is_true(aurora), is_true(multi_az)) {
            (true, _) => Kind::Aurora,
            (false, true) => Kind::MultiAz,
            (false, false) => Kind::Plain,
        })
    }

    /// What it is asked each time: one row, or one for each member.
    pub fn question(self) -> String {
        // A standby has no timeline of its own to tell, and its control file lags a promotion.
        let positions = match self {
            Kind::Aurora => "NULL, NULL",
            Kind::Plain | Kind::MultiAz => {
                "CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL \
                 ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END, \
                 CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
                 ELSE pg_catalog.pg_current_wal_insert_lsn() END"
            }
        };
        let (id, members) = match self {
            Kind::Plain => ("NULL", "(SELECT NULL, NULL, NULL, NULL)"),
            Kind::Aurora => (
                "pg_catalog.aurora_db_instance_identifier()",
                "(SELECT server_id, NULL, NULL, replica_lag_in_msec, last_update_timestamp, session_id \
                  FROM pg_catalog.aurora_replica_status())",
            ),
            Kind::MultiAz => (
                "rds_tools.dbi_resource_id()",
                "(SELECT id, endpoint, port, NULL FROM rds_tools.show_topology('weir'))",
            ),
        };
        let fresh = match self {
            Kind::Aurora => format!(
                " WHERE member.session = 'MASTER_SESSION_ID' OR member.updated > pg_catalog.now() - interval '{STALE_SECONDS} s'"
            ),
            Kind::Plain | Kind::MultiAz => String::new(),
        };
        let columns = match self {
            Kind::Aurora => "member(id, host, port, lag, updated, session)",
            Kind::Plain | Kind::MultiAz => "member(id, host, port, lag)",
        };
        format!(
            "SELECT pg_catalog.pg_is_in_recovery(), {positions}, \
             (EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::int8, \
             pg_catalog.current_setting('max_connections')::int4 \
             - pg_catalog.current_setting('superuser_reserved_connections')::int4 \
             - COALESCE(NULLIF(pg_catalog.current_setting('reserved_connections', true), '')::int4, 0) \
             - COALESCE(NULLIF(pg_catalog.current_setting('rds.rds_superuser_reserved_connections', true), '')::int4, 0), \
             {id}, member.id, member.host, member.port, member.lag FROM {members} AS {columns}{fresh}"
        )
    }

    pub fn answer(self, rows: &[Row]) -> Result<Answer, Unintelligible> {
        let first = rows.first().ok_or(Unintelligible)?;
        let [recovery, walfile, position, started, allows, id, _, _, _, _] = &**first else {
            return Err(Unintelligible);
        };
        let id = text(id).map(str::to_owned);
        let role = match recovery.as_deref() {
            Some(b"t") => Role::Reader,
            Some(b"f") => Role::Writer,
            _ => return Err(Unintelligible),
        };
        let members = rows.iter().filter_map(member);
        let own_lag = rows.iter().find(|row| {
            let member = row.get(6).and_then(text);
            member.is_some() && member == id.as_deref()
        });
        let lag = own_lag.and_then(|row| {
            let ms: f64 = text(row.get(9)?)?.parse().ok()?;
            Duration::try_from_secs_f64(ms / 1000.0).ok()
        });
        Ok(Answer {
            said: Said {
                role,
                timeline: text(walfile)
                    .and_then(|name| u32::from_str_radix(name.get(..8)?, 16).ok()),
                position: text(position).and_then(lsn),
                lag,
                started: started.clone().ok_or(Unintelligible)?,
                allows: text(allows)
                    .and_then(|text| text.parse().ok())
                    .ok_or(Unintelligible)?,
            },
            id,
            members: members.collect(),
        })
    }
}

fn member(row: &Row) -> Option<Member> {
    let id = text(row.get(6)?)?.to_owned();
    let host = row.get(7).and_then(text).map(str::to_owned);
    let port = row.get(8).and_then(text).and_then(|port| port.parse().ok());
    Some(Member { id, host, port })
}

fn text(value: &Option<Vec<u8>>) -> Option<&str> {
    std::str::from_utf8(value.as_deref()?).ok()
}

fn is_true(value: &Option<Vec<u8>>) -> bool {
    value.as_deref() == Some(b"t")
}

/// "16/B374D848" as one number.
pub fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |digits| u32::from_str_radix(digits, 16).ok().map(u64::from);
    Some(part(high)? << 32 | part(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Option<&str>]) -> Row {
        let owned = |value: &Option<&str>| value.map(|text| text.as_bytes().to_vec());
        values.iter().map(owned).collect()
    }

    #[test]
    fn a_plain_writer_and_a_plain_reader() {
        let said = |recovery, walfile, position| {
            let values = [
                Some(recovery),
                walfile,
                Some(position),
                Some("2026-01-01"),
                Some("97"),
                None,
                None,
                None,
                None,
                None,
            ];
            Kind::Plain.answer(&[row(&values)]).unwrap().said
        };
        let writer = said("f", Some("0000000A0000001600000003"), "16/B374D848");
        assert_eq!((writer.role, writer.timeline), (Role::Writer, Some(10)));
        assert_eq!((writer.position, writer.allows), (Some(0x16_B374_D848), 97));
        let reader = said("t", None, "0/0");
        assert_eq!(
            (reader.role, reader.timeline, reader.lag),
            (Role::Reader, None, None)
        );
    }

    #[test]
    fn an_aurora_reader_tells_of_all_and_of_its_own_lag() {
        let of = |member, lag| {
            row(&[
                Some("t"),
                None,
                None,
                Some("x"),
                Some("10"),
                Some("i2"),
                Some(member),
                None,
                None,
                lag,
            ])
        };
        let answer = Kind::Aurora
            .answer(&[of("i1", None), of("i2", Some("21.5"))])
            .unwrap();
        assert_eq!(answer.said.lag, Some(Duration::from_micros(21_500)));
        assert_eq!(answer.id.as_deref(), Some("i2"));
        let ids: Vec<&str> = answer.members.iter().map(|member| &*member.id).collect();
        assert_eq!(ids, ["i1", "i2"]);
    }

    #[test]
    fn nonsense_is_no_answer() {
        assert_eq!(Kind::Plain.answer(&[]), Err(Unintelligible));
        assert_eq!(
            Kind::Plain.answer(&[row(&[Some("t")])]),
            Err(Unintelligible)
        );
        assert_eq!(Kind::read(&[row(&[None])]), Err(Unintelligible));
        assert_eq!(
            Kind::read(&[row(&[Some("t"), Some("f")])]),
            Ok(Kind::Aurora)
        );
        for (text, number) in [
            ("0/0", Some(0)),
            ("1/A", Some(0x1_0000_000A)),
            ("1", None),
            ("x/1", None),
        ] {
            assert_eq!(lsn(text), number, "{text}");
        }
    }
}
