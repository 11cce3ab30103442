//! The driver `tokio-postgres`.

use super::driver::{Begin, Changed, InTransaction, Transaction};
use idempotency_store::transaction::{Parameter, Statement};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, GenericClient};

/// Typed parameters: then one round trip does, and nothing is prepared under a name.
async fn run(client: &impl GenericClient, statement: &Statement) -> Result<Option<Changed>, Error> {
    let bytes: Vec<&[u8]> = statement.parameters.iter().map(bytes).collect();
    let parameters: Vec<(&(dyn ToSql + Sync), Type)> = statement
        .parameters
        .iter()
        .zip(&bytes)
        .map(|(parameter, bytes)| match parameter {
            Parameter::Integer(number) => (number as &(dyn ToSql + Sync), Type::INT8),
            Parameter::Bytes(_) => (bytes as &(dyn ToSql + Sync), Type::BYTEA),
        })
        .collect();
    let rows = client.query_typed(&statement.sql, &parameters).await?;
    let changed = |row: &tokio_postgres::Row| {
        Ok(Changed {
            state: row.try_get(0)?,
            expires_at_ms: row.try_get(1)?,
        })
    };
    rows.first().map(changed).transpose()
}

fn bytes(parameter: &Parameter) -> &[u8] {
    match parameter {
        Parameter::Bytes(bytes) => bytes,
        Parameter::Integer(_) => &[],
    }
}

fn sqlstate(error: &Error) -> Option<String> {
    error.code().map(|state| state.code().to_owned())
}

impl InTransaction for tokio_postgres::Transaction<'_> {
    type Error = Error;

    async fn run(&mut self, statement: &Statement) -> Result<Option<Changed>, Error> {
        run(self, statement).await
    }

    fn sqlstate(error: &Error) -> Option<String> {
        sqlstate(error)
    }
}

/// For transactions that are begun and ended as statements.
impl InTransaction for Client {
    type Error = Error;

    async fn run(&mut self, statement: &Statement) -> Result<Option<Changed>, Error> {
        run(self, statement).await
    }

    fn sqlstate(error: &Error) -> Option<String> {
        sqlstate(error)
    }
}

impl Transaction for tokio_postgres::Transaction<'_> {
    async fn commit(self) -> Result<(), Error> {
        tokio_postgres::Transaction::commit(self).await
    }

    async fn rollback(self) -> Result<(), Error> {
        tokio_postgres::Transaction::rollback(self).await
    }
}

impl Begin for Client {
    type Transaction<'c> = tokio_postgres::Transaction<'c>;

    async fn begin_transaction(&mut self) -> Result<tokio_postgres::Transaction<'_>, Error> {
        self.transaction().await
    }
}
