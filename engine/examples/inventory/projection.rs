//! The inventory of a shop as a kind of resource of its own: no item is promised twice.

use std::fmt;

use bytes::Bytes;
use palisade::{Applied, At, DecodeError, Projection, ProjectionFault, Rows, RowsRead, Stored};

/// What can be done to an inventory. Names have no spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// So many of an item have come.
    Receive { item: String, count: u64 },
    /// An order sets so many of an item aside.
    Reserve { order: String, item: String, count: u64 },
    /// The order is off: what it had set aside is free again.
    Release { order: String },
}

/// How an item stands: so many are free, so many set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stock {
    pub(crate) free: u64,
    pub(crate) reserved: u64,
}

/// Why something cannot be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There are only so many.
    NotEnough { free: u64 },
    /// The order has set something aside already.
    OrderExists,
    /// No order of that name has set anything aside.
    UnknownOrder,
}

/// Demands of a batch that so many of an item are free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AtLeast {
    pub(crate) item: String,
    pub(crate) free: u64,
}

/// The projection. It keeps nothing itself: all it knows is in its rows.
pub(crate) struct Inventory;

/// How an item stands, as a read sees it.
pub(crate) fn stock(rows: &RowsRead<'_>, item: &str) -> Result<Stock, ProjectionFault> {
    let row = rows.get(format!("item {item}").as_bytes())?;
    Ok(row.map(|raw| Stock::from_bytes(&raw)).transpose()?.unwrap_or_default())
}

fn put_stock(rows: &mut Rows<'_, '_>, item: &str, stock: Stock) -> Result<(), ProjectionFault> {
    rows.put(format!("item {item}").as_bytes(), stock.to_bytes())
}

impl Projection for Inventory {
    const NAME: &'static str = "inventory";
    const VERSION: u32 = 1;
    type Op = Op;
    type Outcome = Stock;
    type Refusal = Refusal;
    type Guard = AtLeast;

    fn apply(
        &self,
        _: At,
        op: Op,
        rows: &mut Rows<'_, '_>,
    ) -> Result<Applied<Stock, Refusal>, ProjectionFault> {
        match op {
            Op::Receive { item, count } => {
                let mut stock = stock(&rows.read(), &item)?;
                stock.free = stock.free.saturating_add(count);
                put_stock(rows, &item, stock)?;
                Ok(Applied::Done(stock))
            }
            Op::Reserve { order, item, count } => {
                let order_row = format!("order {order}");
                if rows.get(order_row.as_bytes())?.is_some() {
                    return Ok(Applied::Refused(Refusal::OrderExists));
                }
                let mut stock = stock(&rows.read(), &item)?;
                if stock.free < count {
                    return Ok(Applied::Refused(Refusal::NotEnough { free: stock.free }));
                }
                stock.free -= count;
                stock.reserved += count;
                put_stock(rows, &item, stock)?;
                rows.put(order_row.as_bytes(), format!("{item} {count}"))?;
                Ok(Applied::Done(stock))
            }
            Op::Release { order } => {
                let order_row = format!("order {order}");
                let Some(held) = rows.get(order_row.as_bytes())? else {
                    return Ok(Applied::Refused(Refusal::UnknownOrder));
                };
                let [item, count] = words(&held)?;
                let (item, count) = (item.to_owned(), number(count)?);
                let mut stock = stock(&rows.read(), &item)?;
                stock.free += count;
                stock.reserved -= count;
                put_stock(rows, &item, stock)?;
                rows.remove(order_row.as_bytes());
                Ok(Applied::Done(stock))
            }
        }
    }

    fn holds(&self, guard: &AtLeast, rows: &RowsRead<'_>) -> Result<bool, ProjectionFault> {
        Ok(stock(rows, &guard.item)?.free >= guard.free)
    }
}

// Everything is written as words with a space between: easy to read in a log, and in one form only.

const MALFORMED: DecodeError = DecodeError { what: "inventory" };

fn words<const N: usize>(bytes: &Bytes) -> Result<[&str; N], DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(|_| MALFORMED)?;
    text.split(' ').collect::<Vec<_>>().try_into().map_err(|_| MALFORMED)
}

fn number(word: &str) -> Result<u64, DecodeError> {
    let number: u64 = word.parse().map_err(|_| MALFORMED)?;
    if number.to_string() == word { Ok(number) } else { Err(MALFORMED) }
}

fn written(words: impl fmt::Display) -> Bytes {
    words.to_string().into()
}

impl Stored for Op {
    fn to_bytes(&self) -> Bytes {
        match self {
            Self::Receive { item, count } => written(format_args!("receive {item} {count}")),
            Self::Reserve { order, item, count } => {
                written(format_args!("reserve {order} {item} {count}"))
            }
            Self::Release { order } => written(format_args!("release {order}")),
        }
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        if let Ok(["receive", item, count]) = words(bytes) {
            return Ok(Self::Receive { item: item.to_owned(), count: number(count)? });
        }
        if let Ok(["reserve", order, item, count]) = words(bytes) {
            let (order, item) = (order.to_owned(), item.to_owned());
            return Ok(Self::Reserve { order, item, count: number(count)? });
        }
        match words(bytes)? {
            ["release", order] => Ok(Self::Release { order: order.to_owned() }),
            _ => Err(MALFORMED),
        }
    }
}

impl Stored for Stock {
    fn to_bytes(&self) -> Bytes {
        written(format_args!("{} {}", self.free, self.reserved))
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let [free, reserved] = words(bytes)?;
        Ok(Self { free: number(free)?, reserved: number(reserved)? })
    }
}

impl Stored for Refusal {
    fn to_bytes(&self) -> Bytes {
        match self {
            Self::NotEnough { free } => written(format_args!("not-enough {free}")),
            Self::OrderExists => written("order-exists"),
            Self::UnknownOrder => written("unknown-order"),
        }
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        if let Ok(["not-enough", free]) = words(bytes) {
            return Ok(Self::NotEnough { free: number(free)? });
        }
        match words(bytes)? {
            ["order-exists"] => Ok(Self::OrderExists),
            ["unknown-order"] => Ok(Self::UnknownOrder),
            _ => Err(MALFORMED),
        }
    }
}

impl Stored for AtLeast {
    fn to_bytes(&self) -> Bytes {
        written(format_args!("{} {}", self.item, self.free))
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let [item, free] = words(bytes)?;
        Ok(Self { item: item.to_owned(), free: number(free)? })
    }
}
