//! The demo's shop: a `SQLite` database of four tables, and what a day of business does to it.
//!
//! Its data comes from fixed arithmetic, so every demo tells the same story. The rows are as a shop's are: most are
//! written once, a few old ones change, and what changes lies scattered over the file.
//!
//! A connection lives no longer than one method: between two days the database is one file, at rest, that can be
//! copied and backed up as it is.

use std::fmt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, params};

use crate::error::{Error, Kind, Result};

const CUSTOMERS: u32 = 2_000;
const PRODUCTS: u32 = 500;
const ORDERS: u32 = 40_000;
const ORDERS_A_DAY: u32 = 150;
const CUSTOMERS_A_DAY: u32 = 8;
const PRICES_A_DAY: u32 = 10;
const ADDRESSES_A_DAY: u32 = 5;
const RETURNS_A_DAY: u32 = 5;

const SCHEMA: &str = "
    CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, address TEXT NOT NULL);
    CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price_cents INTEGER NOT NULL);
    CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customer,
        placed TEXT NOT NULL, state TEXT NOT NULL, address TEXT NOT NULL, parcel TEXT NOT NULL);
    CREATE TABLE order_item (id INTEGER PRIMARY KEY, orders INTEGER NOT NULL REFERENCES orders,
        product INTEGER NOT NULL REFERENCES product, quantity INTEGER NOT NULL, price_cents INTEGER NOT NULL);";

const NAMES: [&str; 12] =
    ["Ada", "Bruno", "Clara", "Daniel", "Elif", "Femi", "Grace", "Hugo", "Ines", "Jonas", "Keiko", "Lena"];
const SURNAMES: [&str; 12] = [
    "Almeida", "Berg", "Castro", "Dubois", "Eriksen", "Fischer", "Garcia", "Hansen", "Ito", "Jansen", "Kaya", "Okafor",
];
const STREETS: [&str; 8] =
    ["Harbour Road", "Mill Lane", "Station Street", "Orchard Way", "Bridge Street", "Quay", "High Street", "Park Row"];
const WARES: [&str; 8] = ["tea pot", "lamp", "wool blanket", "notebook", "bread knife", "desk", "kettle", "umbrella"];
const COLOURS: [&str; 8] = ["red", "blue", "green", "white", "black", "copper", "grey", "yellow"];

/// The shop, closed for the night.
pub struct Shop {
    path: PathBuf,
    dice: Dice,
    customers: u32,
    orders: u32,
}

impl Shop {
    /// Makes the database at `path`, with the business of the years before `today`.
    ///
    /// # Errors
    /// `Failed` with `SQLite`'s reason.
    pub fn found(path: PathBuf, today: Timestamp) -> Result<Self> {
        let mut shop = Self { path, dice: Dice(2026), customers: 0, orders: 0 };
        shop.transaction(|shop, database| {
            database.execute_batch(SCHEMA)?;
            for id in 1..=PRODUCTS {
                let name = format!("{} {} no. {id}", shop.dice.pick(&COLOURS), shop.dice.pick(&WARES));
                database.execute("INSERT INTO product VALUES (?1, ?2, ?3)", params![id, name, shop.dice.price()])?;
            }
            shop.add_customers(database, CUSTOMERS)?;
            shop.add_orders(database, ORDERS, &date(today), "delivered")
        })?;
        Ok(shop)
    }

    /// A day of business: new customers, orders and prices, deliveries, returns, people who move.
    ///
    /// # Errors
    /// `Failed` with `SQLite`'s reason.
    pub fn trade(&mut self, today: Timestamp) -> Result<()> {
        self.transaction(|shop, database| {
            database.execute("UPDATE orders SET state = 'delivered' WHERE state = 'placed'", [])?;
            for _ in 0..PRICES_A_DAY {
                let (product, price) = (1 + shop.dice.below(PRODUCTS), shop.dice.price());
                database.execute("UPDATE product SET price_cents = ?2 WHERE id = ?1", params![product, price])?;
            }
            for _ in 0..ADDRESSES_A_DAY {
                let (customer, address) = (1 + shop.dice.below(shop.customers), shop.dice.address());
                database.execute("UPDATE customer SET address = ?2 WHERE id = ?1", params![customer, address])?;
            }
            for _ in 0..RETURNS_A_DAY {
                let order = 1 + shop.dice.below(shop.orders);
                database.execute("UPDATE orders SET state = 'returned' WHERE id = ?1", [order])?;
            }
            shop.add_customers(database, CUSTOMERS_A_DAY)?;
            shop.add_orders(database, ORDERS_A_DAY, &date(today), "placed")
        })
    }

    fn add_customers(&mut self, database: &Connection, count: u32) -> rusqlite::Result<()> {
        let mut insert = database.prepare("INSERT INTO customer VALUES (?1, ?2, ?3, ?4)")?;
        for _ in 0..count {
            self.customers += 1;
            let (name, surname) = (self.dice.pick(&NAMES), self.dice.pick(&SURNAMES));
            let email = format!("{name}.{surname}.{}@example.org", self.customers).to_lowercase();
            insert.execute(params![self.customers, format!("{name} {surname}"), email, self.dice.address()])?;
        }
        Ok(())
    }

    fn add_orders(&mut self, database: &Connection, count: u32, placed: &str, state: &str) -> rusqlite::Result<()> {
        let mut order = database.prepare("INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        let sql = "INSERT INTO order_item (orders, product, quantity, price_cents)
            SELECT ?1, id, ?3, price_cents FROM product WHERE id = ?2";
        let mut item = database.prepare(sql)?;
        for _ in 0..count {
            self.orders += 1;
            let (customer, parcel) = (1 + self.dice.below(self.customers), format!("{:016X}", self.dice.roll()));
            order.execute(params![self.orders, customer, placed, state, self.dice.address(), parcel])?;
            for _ in 0..=self.dice.below(4) {
                item.execute(params![self.orders, 1 + self.dice.below(PRODUCTS), 1 + self.dice.below(3)])?;
            }
        }
        Ok(())
    }

    fn transaction(&mut self, work: impl FnOnce(&mut Self, &Connection) -> rusqlite::Result<()>) -> Result<()> {
        let done = (|| {
            let mut database = Connection::open(&self.path)?;
            // The journal is a file that is gone after the commit; a power cut costs a demo, so nothing is synced.
            database.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF;")?;
            let transaction = database.transaction()?;
            work(self, &transaction)?;
            transaction.commit()?;
            database.close().map_err(|(_, error)| error)
        })();
        done.map_err(|error| failed(&self.path, error))
    }
}

/// What `SQLite` says about a shop's database.
#[derive(Debug, PartialEq, Eq)]
pub struct Examined {
    /// `SQLite`'s own verdict; `ok` when every page is as it should be.
    pub integrity: String,
    customers: u32,
    products: u32,
    orders: u32,
    items: u32,
}

impl fmt::Display for Examined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { customers, products, orders, items, .. } = self;
        write!(f, "{customers} customers, {products} products, {orders} orders, {items} order items")
    }
}

/// Counts the rows of every table and runs `SQLite`'s integrity check.
///
/// # Errors
/// `Failed` with `SQLite`'s reason, as when the file is no database.
pub fn examine(path: &Path) -> Result<Examined> {
    let examined = (|| {
        let database = Connection::open(path)?;
        let rows = |table| database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0));
        Ok(Examined {
            integrity: database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?,
            customers: rows("customer")?,
            products: rows("product")?,
            orders: rows("orders")?,
            items: rows("order_item")?,
        })
    })();
    examined.map_err(|error| failed(path, error))
}

fn failed(path: &Path, error: rusqlite::Error) -> Error {
    Error::new(Kind::Failed, format!("the demo's database {}", path.display())).because(error)
}

fn date(time: Timestamp) -> String {
    time.strftime("%F").to_string()
}

/// Fixed arithmetic (`SplitMix64`) in place of chance.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.roll() % u64::from(end)) as u32
    }

    fn pick<'w>(&mut self, words: &[&'w str]) -> &'w str {
        words[self.below(words.len() as u32) as usize]
    }

    fn price(&mut self) -> u32 {
        500 + self.below(9_500)
    }

    fn address(&mut self) -> String {
        format!("{} {}, {:05}", self.pick(&STREETS), 1 + self.below(240), self.below(100_000))
    }
}
