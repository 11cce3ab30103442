//! The driver `sqlx`, by its version. Its releases differ in how they are told that a text is no user's input.

use super::driver::{Begin, Changed, InTransaction, Transaction};
use idempotency_store::transaction::{Parameter, Statement};

macro_rules! adapter {
    ($module:ident, $sqlx:ident, |$sql:ident| $text:expr) => {
        mod $module {
            use super::*;
            use $sqlx::postgres::PgRow;
            use $sqlx::{Connection, Error, PgConnection, PgPool, Postgres, Row};

            /// Not persistent: then nothing is prepared under a name.
            async fn run(
                connection: &mut PgConnection,
                statement: &Statement,
            ) -> Result<Option<Changed>, Error> {
                let $sql: &str = &statement.sql;
                let mut query = $sqlx::query($text).persistent(false);
                for parameter in &statement.parameters {
                    query = match parameter {
                        Parameter::Bytes(bytes) => query.bind(bytes.to_vec()),
                        Parameter::Integer(number) => query.bind(*number),
                    };
                }
                let row: Option<PgRow> = query.fetch_optional(connection).await?;
                let changed = |row: PgRow| {
                    Ok(Changed {
                        state: row.try_get(0)?,
                        expires_at_ms: row.try_get(1)?,
                    })
                };
                row.map(changed).transpose()
            }

            fn sqlstate(error: &Error) -> Option<String> {
                let error = error.as_database_error()?;
                error.code().map(|code| code.into_owned())
            }

            /// For transactions that are begun and ended as statements.
            impl InTransaction for PgConnection {
                type Error = Error;

                async fn run(&mut self, statement: &Statement) -> Result<Option<Changed>, Error> {
                    run(self, statement).await
                }

                fn sqlstate(error: &Error) -> Option<String> {
                    sqlstate(error)
                }
            }

            impl InTransaction for $sqlx::Transaction<'_, Postgres> {
                type Error = Error;

                async fn run(&mut self, statement: &Statement) -> Result<Option<Changed>, Error> {
                    run(self, statement).await
                }

                fn sqlstate(error: &Error) -> Option<String> {
                    sqlstate(error)
                }
            }

            impl Transaction for $sqlx::Transaction<'_, Postgres> {
                async fn commit(self) -> Result<(), Error> {
                    $sqlx::Transaction::commit(self).await
                }

                async fn rollback(self) -> Result<(), Error> {
                    $sqlx::Transaction::rollback(self).await
                }
            }

            impl Begin for PgConnection {
                type Transaction<'c> = $sqlx::Transaction<'c, Postgres>;

                async fn begin_transaction(
                    &mut self,
                ) -> Result<$sqlx::Transaction<'_, Postgres>, Error> {
                    self.begin().await
                }
            }

            impl Begin for PgPool {
                type Transaction<'c> = $sqlx::Transaction<'c, Postgres>;

                async fn begin_transaction(
                    &mut self,
                ) -> Result<$sqlx::Transaction<'_, Postgres>, Error> {
                    self.begin().await
                }
            }
        }
    };
}

#[cfg(feature = "sqlx-0_8")]
adapter!(v0_8, sqlx_0_8, |sql| sql);
// The text is this crate's own, with the quoted name of the schema in it.
#[cfg(feature = "sqlx-0_9")]
adapter!(v0_9, sqlx_0_9, |sql| sqlx_0_9::AssertSqlSafe(sql));
