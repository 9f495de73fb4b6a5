//! Panics that are taken for what they are, failed invariants, and harm nobody else.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Does it. What was said by a panic in it is an error.
///
/// # Errors
/// The message of the panic.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| said(&*panic))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_panic_says_is_told() {
        assert_eq!(guarded(|| 7), Ok(7));
        let number = 3;
        let said = |panic: fn(u32)| guarded(|| panic(number)).unwrap_err();
        assert_eq!(said(|_| panic!("as it is")), "as it is");
        assert_eq!(said(|number| panic!("number={number}")), "number=3");
        assert_eq!(said(|_| std::panic::panic_any(7)), "a panic without a message");
    }
}
