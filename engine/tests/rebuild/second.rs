//! The inventory with other rows: what is free and what is set aside are in rows of their own.

use palisade::{
    Applied, At, Direction, Imported, NewRows, Projection, ProjectionFault, Rows, RowsRead, Stored,
    Walk,
};

use crate::inventory::{AtLeast, Inventory, Op, Refusal, Stock, stock};

/// The second version.
pub(crate) struct Second;

/// How an item stands in rows of the second version.
fn second_stock(rows: &RowsRead<'_>, item: &str) -> Result<Stock, ProjectionFault> {
    let count = |what: &str| {
        let row = rows.get(format!("{what} {item}").as_bytes())?;
        Ok::<u64, ProjectionFault>(row.map_or(Ok(0), |raw| u64::from_bytes(&raw))?)
    };
    Ok(Stock { free: count("free")?, reserved: count("set-aside")? })
}

/// How an item stands, whichever version has written the rows.
pub(crate) fn stock_of_any(rows: &RowsRead<'_>, item: &str) -> Result<Stock, ProjectionFault> {
    match rows.version() {
        1 => stock(rows, item),
        _ => second_stock(rows, item),
    }
}

fn put(rows: &mut Rows<'_, '_>, item: &str, stock: Stock) -> Result<(), ProjectionFault> {
    rows.put(format!("free {item}").as_bytes(), stock.free.to_bytes())?;
    rows.put(format!("set-aside {item}").as_bytes(), stock.reserved.to_bytes())
}

/// What an order has set aside, newest layout: item and count.
fn order(raw: &[u8]) -> Result<(String, u64), ProjectionFault> {
    let text = String::from_utf8_lossy(raw).into_owned();
    let (item, count) = text.split_once(' ').ok_or_else(|| ProjectionFault::new("no order"))?;
    let count = count.parse().map_err(|_| ProjectionFault::new("no count"))?;
    Ok((item.to_owned(), count))
}

impl Projection for Second {
    const NAME: &'static str = Inventory::NAME;
    const VERSION: u32 = 2;
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
        let (item, stock) = match op {
            Op::Receive { item, count } => {
                let mut stock = second_stock(&rows.read(), &item)?;
                stock.free = stock.free.saturating_add(count);
                (item, stock)
            }
            Op::Reserve { order, item, count } => {
                let row = format!("order {order}");
                if rows.get(row.as_bytes())?.is_some() {
                    return Ok(Applied::Refused(Refusal::OrderExists));
                }
                let mut stock = second_stock(&rows.read(), &item)?;
                if stock.free < count {
                    return Ok(Applied::Refused(Refusal::NotEnough { free: stock.free }));
                }
                stock.free -= count;
                stock.reserved += count;
                rows.put(row.as_bytes(), format!("{item} {count}"))?;
                (item, stock)
            }
            Op::Release { order: name } => {
                let row = format!("order {name}");
                let Some(held) = rows.get(row.as_bytes())? else {
                    return Ok(Applied::Refused(Refusal::UnknownOrder));
                };
                let (item, count) = order(&held)?;
                let mut stock = second_stock(&rows.read(), &item)?;
                stock.free += count;
                stock.reserved -= count;
                rows.remove(row.as_bytes());
                (item, stock)
            }
        };
        put(rows, &item, stock)?;
        Ok(Applied::Done(stock))
    }

    fn holds(&self, guard: &AtLeast, rows: &RowsRead<'_>) -> Result<bool, ProjectionFault> {
        Ok(second_stock(rows, &guard.item)?.free >= guard.free)
    }

    fn import(
        &self,
        from: u32,
        old: &RowsRead<'_>,
        new: &mut NewRows<'_>,
    ) -> Result<Imported, ProjectionFault> {
        if from != 1 {
            return Ok(Imported::Unable);
        }
        let mut done = Ok(());
        old.walk(b"", None, Direction::Forward, &mut |key, value| {
            done = one(key, value, new);
            if done.is_ok() { Walk::Next } else { Walk::Stop }
        })?;
        done.map(|()| Imported::All)
    }
}

/// A row of the first version.
fn one(key: &[u8], value: &[u8], new: &mut NewRows<'_>) -> Result<(), ProjectionFault> {
    let Some(item) = key.strip_prefix(b"item ") else {
        return new.put(key, value.to_vec());
    };
    let stock = Stock::from_bytes(&value.to_vec().into())?;
    new.put(&[b"free ", item].concat(), stock.free.to_bytes())?;
    new.put(&[b"set-aside ", item].concat(), stock.reserved.to_bytes())
}
