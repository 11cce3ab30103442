-- The application's own tables. Those of the records are made by `Postgres::migrate`.

CREATE TABLE IF NOT EXISTS orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer text NOT NULL,
    item text NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT now()
);

-- Events that are to be sent: written in the transaction of what they tell, sent after it.
CREATE TABLE IF NOT EXISTS outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id text NOT NULL,
    payload text NOT NULL
);

-- There is no unique constraint on the order: that there is one invoice for each is what the example shows.
CREATE TABLE IF NOT EXISTS invoices (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id bigint NOT NULL,
    amount_cents bigint NOT NULL
);
