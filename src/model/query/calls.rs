//! Calls of functions that fail with every document. The author of a class learns that at once, and not from the first Pod.

use jmespath::ast::Ast;
use jmespath::{Context, ErrorReason, Rcvar, RuntimeError, Variable};

use super::explain;

/// The fault of the first such call: there is no function of that name, or it takes another number of arguments.
pub(super) fn wrong(ast: &Ast, context: &mut Context<'_>) -> Option<String> {
    match ast {
        Ast::Field { .. } | Ast::Identity { .. } | Ast::Index { .. } | Ast::Literal { .. } | Ast::Slice { .. } => None,
        Ast::Expref { ast: node, .. } | Ast::Flatten { node, .. } | Ast::Not { node, .. } | Ast::ObjectValues { node, .. } => {
            wrong(node, context)
        }
        Ast::And { lhs, rhs, .. }
        | Ast::Comparison { lhs, rhs, .. }
        | Ast::Condition { predicate: lhs, then: rhs, .. }
        | Ast::Or { lhs, rhs, .. }
        | Ast::Projection { lhs, rhs, .. }
        | Ast::Subexpr { lhs, rhs, .. } => wrong(lhs, context).or_else(|| wrong(rhs, context)),
        Ast::MultiList { elements, .. } => elements.iter().find_map(|element| wrong(element, context)),
        Ast::MultiHash { elements, .. } => elements.iter().find_map(|pair| wrong(&pair.value, context)),
        Ast::Function { name, args, .. } => of_call(name, args.len(), context).or_else(|| args.iter().find_map(|arg| wrong(arg, context))),
    }
}

/// A function checks the number of its arguments before their types. So a call with as many nulls shows whether the number is right.
fn of_call(name: &str, arguments: usize, context: &mut Context<'_>) -> Option<String> {
    let Some(function) = context.runtime.get_function(name) else {
        return Some(explain(&RuntimeError::UnknownFunction(name.to_owned())));
    };
    let nulls = vec![Rcvar::new(Variable::Null); arguments];
    match function.evaluate(&nulls, context).err()?.reason {
        ErrorReason::Runtime(reason @ (RuntimeError::NotEnoughArguments { .. } | RuntimeError::TooManyArguments { .. })) => {
            Some(format!("`{name}`: {}", explain(&reason)))
        }
        ErrorReason::Parse(_) | ErrorReason::Runtime(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{InvalidQuery, Query};

    #[test]
    fn calls_that_always_fail_are_told() {
        let told =
            ["lenght(@)", "length()", "length(a, b)", "a[?starts_with(b)]", "{x: a.[y, nothing(@)]}", "map(&upper(@), a) || b", "merge()"]
                .map(|text| format!("{text}: {}", Query::expression(text).unwrap_err()));
        insta::assert_snapshot!(told.join("\n"), @r#"
        lenght(@): is a JMESPath expression that always fails: there is no function "lenght"
        length(): is a JMESPath expression that always fails: `length`: a function takes 1 argument, but gets 0
        length(a, b): is a JMESPath expression that always fails: `length`: a function takes 1 argument, but gets 2
        a[?starts_with(b)]: is a JMESPath expression that always fails: `starts_with`: a function takes 2 arguments, but gets 1
        {x: a.[y, nothing(@)]}: is a JMESPath expression that always fails: there is no function "nothing"
        map(&upper(@), a) || b: is a JMESPath expression that always fails: there is no function "upper"
        merge(): is a JMESPath expression that always fails: `merge`: a function takes 1 argument, but gets 0
        "#);
        // Right, as far as it can be known without a document. `not_null` and `merge` take any number.
        for text in ["length(a)", "join(',', a)", "sort_by(a, &b)", "not_null(a, b, c)", "merge(a, b, c)", "type(a)", "to_number('x')"] {
            Query::expression(text).unwrap();
        }
        // The names of fields, too.
        assert!(matches!("user(name)".parse::<Query>().unwrap().suspicious(), Some(InvalidQuery::Call(_))));
    }
}
