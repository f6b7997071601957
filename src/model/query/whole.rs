//! The library's functions, with whole results as whole numbers. JMESPath has one kind of number: the sum of 1 and 2 is 3, and the library
//! says 3.0.

use std::sync::LazyLock;

use jmespath::functions::Function;
use jmespath::{Context, Rcvar, Runtime, SearchResult, Variable};

/// The functions that compute.
const COMPUTE: [&str; 5] = ["abs", "avg", "ceil", "floor", "sum"];

/// Beyond this, not every whole number is a number of the library.
const EXACT: f64 = 9_007_199_254_740_992.0;

pub(super) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut runtime = Runtime::new();
    runtime.register_builtin_functions();
    for name in COMPUTE {
        if let Some(function) = runtime.deregister_function(name) {
            runtime.register_function(name, Box::new(Whole(function)));
        }
    }
    runtime
});

struct Whole(Box<dyn Function>);

impl Function for Whole {
    fn evaluate(&self, args: &[Rcvar], context: &mut Context<'_>) -> SearchResult {
        self.0.evaluate(args, context).map(whole)
    }
}

fn whole(value: Rcvar) -> Rcvar {
    let number = value.as_number().filter(|number| number.fract() == 0.0 && number.abs() < EXACT);
    #[allow(clippy::cast_possible_truncation)] // it is whole, and not too large
    let whole = number.map(|number| number as i64);
    whole.map_or(value, |whole| Rcvar::new(Variable::Number(whole.into())))
}

#[cfg(test)]
mod tests {
    use super::super::Query;
    use super::*;

    #[test]
    fn a_whole_result_is_a_whole_number() {
        let document = Rcvar::new(Variable::from_json(r#"{"n":[1,2],"half":[1,2.5],"f":1.5,"neg":-3,"big":1e300,"none":[]}"#).unwrap());
        let found = |text: &str| Query::expression(text).unwrap().search(&document).unwrap().map(|value| value.to_string());
        for (text, value) in [
            ("sum(n)", "3"),
            ("sum(half)", "3.5"),
            ("avg(n)", "1.5"),
            ("avg([sum(n)])", "3"),
            ("sum(none)", "0"),
            ("ceil(f)", "2"),
            ("floor(f)", "1"),
            ("ceil(`-0.5`)", "0"),
            ("abs(neg)", "3"),
            ("abs(f)", "1.5"),
            ("to_string(sum(n))", "\"3\""),
            ("n[?@ == abs(`-2`)]", "[2]"),
        ] {
            assert_eq!(found(text).as_deref(), Some(value), "{text}");
        }
        assert!(found("ceil(big)").unwrap().starts_with("1e"), "it is too large for that");
    }
}
