//! What a role asks of PostgreSQL, as the server itself counts it (`pg_stat_statements`).

use anyhow::Context as _;
use postgres::Client;
use serde_json::{Value, json};

/// Statements that a role has made so far, and the milliseconds that they ran. Reads no texts, so that counting disturbs little.
pub(crate) fn so_far(admin: &mut Client, role: &str) -> anyhow::Result<(i64, f64)> {
    let sql = "select coalesce(sum(calls), 0)::bigint, coalesce(sum(total_exec_time), 0)::float8
               from pg_stat_statements(false) s join pg_roles r on r.oid = s.userid where r.rolname = $1";
    let row = admin.query_one(sql, &[&role]).context("pg_stat_statements is needed to count statements")?;
    Ok((row.get(0), row.get(1)))
}

/// Statements that the server has forgotten so far; then its counts are too low.
pub(crate) fn forgotten(admin: &mut Client) -> anyhow::Result<i64> {
    Ok(admin.query_one("select dealloc from pg_stat_statements_info", &[])?.get(0))
}

/// Lets the time of planning be told for a role's later sessions.
pub(crate) fn tell_planning(admin: &mut Client, role: &str) -> anyhow::Result<()> {
    Ok(admin.batch_execute(&format!("alter role {role} set pg_stat_statements.track_planning = on"))?)
}

/// Where a role's statements spent their time, the most first.
pub(crate) fn costliest(admin: &mut Client, role: &str) -> anyhow::Result<Vec<Value>> {
    let rows = admin.query(
        "select left(regexp_replace(regexp_replace(query, '--[^\n]*', '', 'g'), '\\s+', ' ', 'g'), 70), calls, total_exec_time, max_exec_time,
             total_plan_time, rows, wal_bytes::float8, shared_blks_hit
         from pg_stat_statements s join pg_roles r on r.oid = s.userid
         where r.rolname = $1 order by total_exec_time + total_plan_time desc limit 6",
        &[&role],
    )?;
    let describe = |row: &postgres::Row| {
        json!({
            "statement": row.get::<_, String>(0).trim(),
            "calls": row.get::<_, i64>(1),
            "total_ms": row.get::<_, f64>(2),
            "mean_ms": row.get::<_, f64>(2) / row.get::<_, i64>(1).max(1) as f64,
            "max_ms": row.get::<_, f64>(3),
            "plan_ms": row.get::<_, f64>(4),
            "rows": row.get::<_, i64>(5),
            "wal_mb": row.get::<_, f64>(6) / 1e6,
            "blocks_hit": row.get::<_, i64>(7),
        })
    };
    Ok(rows.iter().map(describe).collect())
}
