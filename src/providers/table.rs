//! The providers: one row each, from their references and price lists of 2026.
//!
//! Owns: the table. Promises: a model is named only where the vendor's own documents name the
//! cheapest; everywhere else the user's word counts. Does not: read anything.
//!
//! A new provider is a row here and its recorded replies in `causes_test.rs`. Tests then ask for its name at
//! `--provider` in `cli/flags.rs`, and `docs/providers.md` is for people. If its keys begin like no other's:
//! `KEYS` in `tokens/discovery.rs` and `DISTINCT` in `common/mask.rs`. A dialect of its own is a file beside
//! `openai.rs`; the compiler shows where `Dialect` asks for it.

use super::openai::{self, Chat, OPENAI};
use super::{Authorization, Dialect, Free, Provider};

/// The usual free endpoint of those that speak like OpenAI.
const MODELS: Option<Free> = Some(Free::Models("/models"));

/// What most rows have in common.
const COMPATIBLE: Provider = Provider {
    name: "",
    label: "",
    token_variables: &[],
    base_url: "",
    version: "",
    base_url_variable: None,
    model_variable: None,
    cheapest_model: "",
    dialect: Dialect::Chat(openai::COMPATIBLE),
    tells_limits: true,
    free: MODELS,
};

/// Like OpenAI, with windows of other names.
const fn windows(names: &'static [(&'static str, &'static str)]) -> Dialect {
    Dialect::Chat(Chat {
        windows: names,
        ..openai::COMPATIBLE
    })
}

/// Every provider, in the order in which their tokens are looked for.
pub(crate) static PROVIDERS: &[Provider] = &[
    Provider {
        name: "anthropic",
        label: "Anthropic",
        token_variables: &["ANTHROPIC_API_KEY"],
        base_url: "https://api.anthropic.com",
        version: "/v1",
        base_url_variable: Some("ANTHROPIC_BASE_URL"),
        model_variable: Some("ANTHROPIC_MODEL"),
        // The cheapest of its price list of 2026.
        cheapest_model: "claude-haiku-5-5",
        dialect: Dialect::Anthropic,
        free: None,
        ..COMPATIBLE
    },
    Provider {
        name: "openai",
        label: "OpenAI",
        token_variables: &["OPENAI_API_KEY", "CODEX_API_KEY"],
        base_url: "https://api.openai.com/v1",
        base_url_variable: Some("OPENAI_BASE_URL"),
        model_variable: Some("OPENAI_MODEL"),
        // `gpt-5-nano` is cheaper but deprecated.
        cheapest_model: "gpt-5.6-luna",
        dialect: Dialect::Chat(OPENAI),
        ..COMPATIBLE
    },
    Provider {
        name: "groq",
        label: "Groq",
        token_variables: &["GROQ_API_KEY"],
        base_url: "https://api.groq.com/openai/v1",
        base_url_variable: Some("GROQ_API_BASE"),
        // The headers do not say it: requests are those of a day, tokens those of a minute.
        dialect: windows(&[("requests", "requests-day"), ("tokens", "tokens-minute")]),
        ..COMPATIBLE
    },
    Provider {
        name: "mistral",
        label: "Mistral",
        token_variables: &["MISTRAL_API_KEY"],
        base_url: "https://api.mistral.ai/v1",
        base_url_variable: Some("MISTRAL_API_BASE"),
        dialect: windows(&[
            ("req-minute", "requests-minute"),
            ("req-10-second", "requests-10-second"),
        ]),
        ..COMPATIBLE
    },
    Provider {
        name: "xai",
        label: "xAI",
        token_variables: &["XAI_API_KEY"],
        base_url: "https://api.x.ai/v1",
        base_url_variable: Some("XAI_API_BASE"),
        ..COMPATIBLE
    },
    Provider {
        name: "cerebras",
        label: "Cerebras",
        token_variables: &["CEREBRAS_API_KEY"],
        base_url: "https://api.cerebras.ai/v1",
        base_url_variable: Some("CEREBRAS_API_BASE"),
        ..COMPATIBLE
    },
    Provider {
        name: "together",
        label: "Together",
        token_variables: &["TOGETHER_API_KEY", "TOGETHERAI_API_KEY"],
        base_url: "https://api.together.xyz/v1",
        base_url_variable: Some("TOGETHER_BASE_URL"),
        dialect: windows(&[("", "requests-second")]),
        ..COMPATIBLE
    },
    Provider {
        name: "fireworks",
        label: "Fireworks",
        token_variables: &["FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY"],
        base_url: "https://api.fireworks.ai/inference/v1",
        base_url_variable: Some("FIREWORKS_API_BASE"),
        ..COMPATIBLE
    },
    Provider {
        name: "deepseek",
        label: "DeepSeek",
        token_variables: &["DEEPSEEK_API_KEY"],
        base_url: "https://api.deepseek.com",
        base_url_variable: Some("DEEPSEEK_API_BASE"),
        tells_limits: false,
        free: Some(Free::DeepSeekBalance),
        ..COMPATIBLE
    },
    Provider {
        name: "openrouter",
        label: "OpenRouter",
        token_variables: &["OPENROUTER_API_KEY"],
        base_url: "https://openrouter.ai/api/v1",
        base_url_variable: Some("OPENROUTER_API_BASE"),
        tells_limits: false,
        free: Some(Free::OpenRouterKey),
        ..COMPATIBLE
    },
    Provider {
        name: "cohere",
        label: "Cohere",
        token_variables: &["CO_API_KEY", "COHERE_API_KEY"],
        // The vendor's variable goes without `/v2`.
        base_url: "https://api.cohere.com",
        version: "/v2",
        base_url_variable: Some("CO_API_URL"),
        dialect: Dialect::Chat(Chat {
            path: "/v2/chat",
            windows: &[("trial-endpoint-call", "requests-minute")],
            ..openai::COMPATIBLE
        }),
        // A trial token has 1000 calls a month, of any endpoint: none is free.
        tells_limits: false,
        free: None,
        ..COMPATIBLE
    },
    Provider {
        name: "gemini",
        label: "Gemini",
        token_variables: &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
        // The vendor's variable goes without `/v1beta`.
        base_url: "https://generativelanguage.googleapis.com",
        version: "/v1beta",
        base_url_variable: Some("GOOGLE_GEMINI_BASE_URL"),
        model_variable: Some("GEMINI_MODEL"),
        dialect: Dialect::Gemini,
        tells_limits: false,
        free: Some(Free::Models("/v1beta/models?pageSize=1")),
        ..COMPATIBLE
    },
    Provider {
        name: "azure",
        label: "Azure OpenAI",
        token_variables: &["AZURE_OPENAI_API_KEY", "AZURE_API_KEY"],
        // Each customer has a host of its own, so there is no default.
        base_url: "https://set-azure-openai-endpoint.invalid",
        version: "/openai/v1",
        base_url_variable: Some("AZURE_OPENAI_ENDPOINT"),
        // A model is asked by the name that the customer has given its deployment.
        model_variable: Some("AZURE_OPENAI_DEPLOYMENT"),
        dialect: Dialect::Chat(Chat {
            path: "/openai/v1/chat/completions",
            authorization: Authorization::ApiKey,
            ..OPENAI
        }),
        free: Some(Free::Models("/openai/v1/models")),
        ..COMPATIBLE
    },
    Provider {
        name: "perplexity",
        label: "Perplexity",
        token_variables: &["PERPLEXITY_API_KEY", "PPLX_API_KEY", "PERPLEXITYAI_API_KEY"],
        base_url: "https://api.perplexity.ai",
        base_url_variable: Some("PERPLEXITY_API_BASE"),
        // Nothing is known of its limits, and each request costs.
        tells_limits: false,
        free: None,
        ..COMPATIBLE
    },
    Provider {
        name: "huggingface",
        label: "Hugging Face",
        token_variables: &["HF_TOKEN"],
        base_url: "https://router.huggingface.co/v1",
        // Its list of models is public, and says nothing about a token.
        free: None,
        ..COMPATIBLE
    },
];
