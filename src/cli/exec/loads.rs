//! Names of variables that decide which other code a program runs. A person who may write a secret must not decide that.
//!
//! No list is complete: a program may have other variables that do so. With `--only` a user names all variables that are needed.

use crate::dotenv::is_run_by_a_shell;
use crate::glob;

/// Grouped by the program that reads them. docs/exec.md has the same list; a test compares both.
#[rustfmt::skip] // a group has its comment
const PATTERNS: [&str; 73] = [
    // The loader and the C library: <https://sourceware.org/git/?p=glibc.git;a=blob;f=sysdeps/generic/unsecvars.h>.
    "LD_*", "GCONV_PATH", "GETCONF_DIR", "GLIBC_TUNABLES", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "MALLOC_TRACE", "NIS_PATH", "NLSPATH",
    "RESOLV_HOST_CONF", "TZDIR",
    // Programs that start others.
    "PATH", "HOME", "SHELL", "XDG_*", "EDITOR", "*_EDITOR", "VISUAL", "BROWSER", "*PAGER", "*_ASKPASS", "LESSOPEN", "LESSCLOSE",
    // Shells.
    "BASH*", "ENV", "IFS", "SHELLOPTS", "FPATH", "ZDOTDIR", "INPUTRC",
    // Options of a runtime or a start script.
    "*_OPTIONS", "*OPT", "*OPTS",
    // Python, Perl, Ruby, PHP, Lua, R.
    "PYTHON*", "PERL*", "RUBY*", "GEM_HOME", "GEM_PATH", "BUNDLE_GEMFILE", "BUNDLE_PATH", "BUNDLE_BIN_PATH", "PHPRC", "PHP_INI_SCAN_DIR",
    "LUA_PATH*", "LUA_CPATH*", "LUA_INIT*", "R_PROFILE*", "R_ENVIRON*", "R_LIBS*",
    // Node, Java, .NET, Erlang.
    "NODE_PATH", "NODE_REPL_*", "NPM_CONFIG_*", "npm_config_*", "CLASSPATH", "JAVA_HOME", "DOTNET_*", "CORECLR_*", "COR_*", "ERL_*",
    // Libraries and clients that load plugins or run helpers.
    "OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES", "GIT_SSH*", "GIT_CONFIG*", "GIT_EXEC_PATH", "GIT_EXTERNAL_DIFF",
    "GIT_PROXY_COMMAND", "GIT_TEMPLATE_DIR", "KUBECONFIG", "AWS_CONFIG_FILE", "DOCKER_CONFIG", "PSQLRC",
];

/// For names whose value a shell runs.
const SHELL: &str = "shell";

/// The pattern that matches the name, if the name loads code.
pub fn loads_code(name: &str) -> Option<&'static str> {
    let pattern = PATTERNS.into_iter().find(|pattern| glob::matches(pattern, name));
    pattern.or_else(|| is_run_by_a_shell(name).then_some(SHELL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_load_code_are_known() {
        for (name, pattern) in [
            ("LD_PRELOAD", "LD_*"),
            ("PATH", "PATH"),
            ("BASH_ENV", "BASH*"),
            ("BASH_FUNC_ls%%", "BASH*"),
            ("ENV", "ENV"),
            ("IFS", "IFS"),
            ("GLIBC_TUNABLES", "GLIBC_TUNABLES"),
            ("NODE_OPTIONS", "*_OPTIONS"),
            ("JAVA_TOOL_OPTIONS", "*_OPTIONS"),
            ("_JAVA_OPTIONS", "*_OPTIONS"),
            ("RUBYOPT", "*OPT"),
            ("JAVA_OPTS", "*OPTS"),
            ("PYTHONPATH", "PYTHON*"),
            ("PERL5LIB", "PERL*"),
            ("RUBYLIB", "RUBY*"),
            ("PS4", SHELL),
            ("PROMPT_COMMAND", SHELL),
            ("GIT_SSH_COMMAND", "GIT_SSH*"),
        ] {
            assert_eq!(loads_code(name), Some(pattern), "{name}");
        }
        for name in [
            "DB_PASSWORD",
            "NODE_ENV",
            "OPTION",
            "PATHS",
            "MY_PATH",
            "environment",
            "ENVIRONMENT",
            "GITHUB_TOKEN",
            "GIT_TOKEN",
            "GEM_HOST_API_KEY",
            "FEATURE_FLAGS",
            "AWS_SECRET_ACCESS_KEY",
            "PGPASSWORD",
            "LDAP_URL",
            "HOMEPAGE",
        ] {
            assert_eq!(loads_code(name), None, "{name}");
        }
    }

    #[test]
    fn the_page_has_the_same_list() {
        let page = include_str!("../../../docs/exec.md");
        let table = page.split("## Names that load code").nth(1).unwrap().split("\n## ").next().unwrap();
        for pattern in PATTERNS {
            assert!(table.contains(&format!("`{pattern}`")), "{pattern}");
        }
        let told = table.matches('`').count() / 2;
        assert!(told >= PATTERNS.len(), "{told}");
    }
}
