//! Every known cause of a refusal in one table: what a provider says, and what it comes to. Headers
//! and bodies are as recorded, or as the vendors document them; names and numbers that could belong
//! to somebody are made up.

use super::tests::{now, percents, reply};
use super::{Finding, ProbeTarget, by_name};
use std::time::Duration;

/// What a reply comes to, in a word and a number of seconds from the reply's own time.
fn outcome(finding: &Finding) -> String {
    let seconds =
        |span: &Option<Duration>| span.map_or("-".to_owned(), |span| span.as_secs().to_string());
    match finding {
        Finding::Served => "served".to_owned(),
        Finding::Limited { retry_after } => format!("limited {}", seconds(retry_after)),
        Finding::SpendCapped { until } => {
            let span = until.map(|until| until.duration_since(now()).unwrap());
            format!("capped {}", seconds(&span))
        }
        Finding::Rejected => "rejected".to_owned(),
        Finding::Overloaded { retry_after } => format!("overloaded {}", seconds(retry_after)),
        Finding::Unclear { .. } => "unclear".to_owned(),
    }
}

/// One recorded reply: provider and case, status, headers, body; the outcome, and the windows.
type Row = (
    &'static str,
    u16,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

const DATE: &str = "date: Thu, 01 Jan 2026 00:00:00 GMT\n";

/// The replies of a model.
const ROWS: &[Row] = &[
    // ---- Anthropic ----
    (
        "anthropic: throughput",
        429,
        "anthropic-organization-id: 04aa8588-6567-40cb-9042-a54b20ebaf4f
         anthropic-ratelimit-input-tokens-limit: 50000
         anthropic-ratelimit-input-tokens-remaining: 0
         anthropic-ratelimit-input-tokens-reset: 2026-01-01T00:01:00Z
         retry-after: 23
         x-should-retry: true",
        r#"{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your organization's rate limit of 50,000 input tokens per minute."},"request_id":"req_1"}"#,
        "limited 23",
        &["input-tokens 100.0"],
    ),
    (
        "anthropic: a debt of minutes",
        429,
        "anthropic-ratelimit-input-tokens-limit: 30000
         anthropic-ratelimit-input-tokens-remaining: 0
         anthropic-ratelimit-input-tokens-reset: 2026-01-01T00:00:59Z
         retry-after: 505",
        r#"{"type":"error","error":{"type":"rate_limit_error","message":"Number of input tokens has exceeded your per-minute rate limit"}}"#,
        "limited 505",
        &["input-tokens 100.0"],
    ),
    (
        "anthropic: a sharp ramp, without a time",
        429,
        "",
        r#"{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your acceleration limit."}}"#,
        "limited -",
        &[],
    ),
    (
        "anthropic: monthly spend cap of the tier",
        429,
        "anthropic-organization-id: 04aa8588-6567-40cb-9042-a54b20ebaf4f",
        r#"{"type":"error","error":{"type":"rate_limit_error","message":"You have reached your API usage limits: monthly. You will regain access on 2026-02-01 at 00:00 UTC.","details":{"error_code":"enforced_spend_limit_reached"}}}"#,
        "capped 2678400",
        &[],
    ),
    (
        "anthropic: user-set spend limit",
        400,
        "",
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will regain access on 2026-02-01 at 00:00 UTC."}}"#,
        "capped 2678400",
        &[],
    ),
    (
        "anthropic: user-set spend limit of a workspace",
        400,
        "",
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified workspace API usage limits. You will regain access on 2026-02-01 at 00:00 UTC."}}"#,
        "capped 2678400",
        &[],
    ),
    (
        "anthropic: no credit",
        400,
        "",
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."}}"#,
        "capped -",
        &[],
    ),
    // anthropics/claude-code#19028, #72457.
    (
        "anthropic: a closed organization",
        400,
        "",
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"This organization has been disabled."},"request_id":"req_1"}"#,
        "rejected",
        &[],
    ),
    (
        "anthropic: the budget of a LiteLLM proxy",
        400,
        "",
        r#"{"error":{"message":"Budget has been exceeded! Current cost: 26.075, Max budget: 0.25","type":"budget_exceeded","param":null,"code":"400"}}"#,
        "capped -",
        &[],
    ),
    (
        "anthropic: no workspace",
        400,
        "",
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"This API key is not scoped to a workspace, so this request must include the anthropic-workspace-id header"}}"#,
        "unclear",
        &[],
    ),
    (
        "anthropic: unknown token",
        401,
        "x-should-retry: false",
        r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#,
        "rejected",
        &[],
    ),
    (
        "anthropic: billing",
        402,
        "",
        r#"{"type":"error","error":{"type":"billing_error","message":"payment"}}"#,
        "capped -",
        &[],
    ),
    (
        "anthropic: permission",
        403,
        "anthropic-organization-id: 04aa8588-6567-40cb-9042-a54b20ebaf4f",
        r#"{"type":"error","error":{"type":"permission_error","message":"no"}}"#,
        "rejected",
        &[],
    ),
    (
        "anthropic: unknown model",
        404,
        "",
        r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-2"}}"#,
        "unclear",
        &[],
    ),
    (
        "anthropic: too large",
        413,
        "",
        r#"{"type":"error","error":{"type":"request_too_large"}}"#,
        "unclear",
        &[],
    ),
    (
        "anthropic: broken",
        500,
        "retry-after: 9",
        r#"{"type":"error","error":{"type":"api_error"}}"#,
        "overloaded -",
        &[],
    ),
    (
        "anthropic: timeout",
        504,
        "",
        r#"{"type":"error","error":{"type":"timeout_error"}}"#,
        "overloaded -",
        &[],
    ),
    (
        "anthropic: overloaded",
        529,
        "retry-after: 30",
        r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
        "overloaded 30",
        &[],
    ),
    (
        "anthropic: retry-after on a success",
        200,
        "anthropic-ratelimit-output-tokens-limit: 400000
         anthropic-ratelimit-output-tokens-remaining: 400000
         retry-after: 53",
        "{}",
        "served",
        &["output-tokens 0.0"],
    ),
    // ---- OpenAI ----
    (
        "openai: throughput",
        429,
        "openai-organization: org
         retry-after: 7
         x-ratelimit-limit-tokens: 200000
         x-ratelimit-remaining-tokens: 0
         x-ratelimit-reset-tokens: 6.5s",
        r#"{"error":{"message":"Rate limit reached","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#,
        "limited 7",
        &["tokens 100.0"],
    ),
    (
        "openai: by the day, without retry-after",
        429,
        "x-ratelimit-limit-requests: 10000
         x-ratelimit-remaining-requests: 0
         x-ratelimit-reset-requests: 24h6m34s",
        r#"{"error":{"type":"requests","code":"rate_limit_exceeded"}}"#,
        "limited -",
        &["requests 100.0"],
    ),
    (
        "openai: milliseconds come first",
        429,
        "retry-after: 60\nretry-after-ms: 2000",
        r#"{"error":{"type":"rate_limit_error","code":"slow_down"}}"#,
        "limited 2",
        &[],
    ),
    (
        "openai: quota",
        429,
        "",
        r#"{"error":{"type":"insufficient_quota","code":"insufficient_quota"}}"#,
        "capped -",
        &[],
    ),
    (
        "openai: credit",
        429,
        "retry-after: 1",
        r#"{"error":{"type":"insufficient_quota","code":"credit_balance_exhausted"}}"#,
        "capped -",
        &[],
    ),
    (
        "openai: spend limit of the organization",
        429,
        "",
        r#"{"error":{"type":"insufficient_quota","code":"organization_spend_limit_exceeded"}}"#,
        "capped -",
        &[],
    ),
    (
        "openai: spend limit of the project",
        429,
        "",
        r#"{"error":{"type":"insufficient_quota","code":"project_spend_limit_exceeded"}}"#,
        "capped -",
        &[],
    ),
    (
        "openai: usage limit",
        429,
        "",
        r#"{"error":{"type":"insufficient_quota","code":"organization_usage_limit_exceeded"}}"#,
        "capped -",
        &[],
    ),
    // dfinke/PowerShellAI#127.
    (
        "openai: the monthly limit of the older kind",
        400,
        "",
        r#"{"error":{"code":"billing_hard_limit_reached","message":"Billing hard limit has been reached","param":null,"type":"invalid_request_error"}}"#,
        "capped -",
        &[],
    ),
    // BerriAI/litellm#22726.
    (
        "openai: the budget of a LiteLLM proxy, the older status",
        400,
        "",
        r#"{"error":{"message":"Budget has been exceeded! Current cost: 26.075, Max budget: 0.25","type":"budget_exceeded","param":null,"code":"400"}}"#,
        "capped -",
        &[],
    ),
    // BerriAI/litellm#37000, #40002.
    (
        "openai: the budget of a LiteLLM proxy",
        429,
        "",
        r#"{"error":{"message":"Budget has been exceeded! Current cost: 0.0, Max budget: 2.5","type":"budget_exceeded","param":null,"code":"429"}}"#,
        "capped -",
        &[],
    ),
    (
        "openai: unknown token",
        401,
        "www-authenticate: Bearer realm=\"OpenAI API\"",
        r#"{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
        "rejected",
        &[],
    ),
    (
        "openai: closed account",
        401,
        "",
        r#"{"error":{"message":"The OpenAI account associated with this API key has been deactivated.","type":"invalid_request_error","param":null,"code":"account_deactivated"}}"#,
        "rejected",
        &[],
    ),
    // ztjhz/BetterChatGPT#105, binary-husky/gpt_academic#985.
    (
        "openai: access ended",
        403,
        "",
        r#"{"error":{"message":"Your access was terminated due to violation of our policies, please check your email for more information.","type":"access_terminated","param":null,"code":null}}"#,
        "rejected",
        &[],
    ),
    (
        "openai: missing scopes",
        401,
        "",
        r#"{"error":{"message":"You have insufficient permissions for this operation. Missing scopes: model.request.","type":"invalid_request_error","param":null,"code":null}}"#,
        "unclear",
        &[],
    ),
    (
        "openai: country",
        403,
        "",
        r#"{"error":{"code":"unsupported_country_region_territory","type":"request_forbidden"}}"#,
        "unclear",
        &[],
    ),
    (
        "openai: a refused request that was counted",
        400,
        "x-ratelimit-limit-requests: 500\nx-ratelimit-remaining-requests: 5",
        r#"{"error":{"message":"Could not finish the message because max_tokens or model output limit was reached","type":"invalid_request_error"}}"#,
        "served",
        &["requests 99.0"],
    ),
    (
        "openai: overloaded",
        503,
        "retry-after: 11",
        r#"{"error":{"type":"server_error"}}"#,
        "overloaded 11",
        &[],
    ),
    // ---- the others ----
    (
        "groq: a day of requests, a minute of tokens",
        200,
        "x-ratelimit-limit-requests: 14400
         x-ratelimit-remaining-requests: 14370
         x-ratelimit-reset-requests: 2m59.56s
         x-ratelimit-limit-tokens: 18000
         x-ratelimit-remaining-tokens: 17997
         x-ratelimit-reset-tokens: 26ms
         retry-after: 2",
        "{}",
        "served",
        &["requests-day 0.2", "tokens-minute 0.0"],
    ),
    (
        "groq: throughput",
        429,
        "retry-after: 17\nx-ratelimit-limit-tokens: 6000\nx-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 17.399999999s",
        r#"{"error":{"message":"Rate limit reached","type":"tokens","code":"rate_limit_exceeded"}}"#,
        "limited 17",
        &["tokens-minute 100.0"],
    ),
    (
        "groq: spend limit",
        400,
        "",
        r#"{"error":{"code":"blocked_api_access","type":"invalid_request_error"}}"#,
        "capped -",
        &[],
    ),
    // songquanpeng/one-api#1764.
    (
        "groq: a restricted organization",
        400,
        "",
        r#"{"error":{"message":"Organization has been restricted. Please reach out to support if you believe this was in error.","type":"invalid_request_error","param":"","code":"organization_restricted"}}"#,
        "rejected",
        &[],
    ),
    // continuedev/continue#10218.
    (
        "groq: more than the limit of a minute",
        413,
        "x-ratelimit-limit-tokens: 6000\nx-ratelimit-remaining-tokens: 6000\nx-ratelimit-reset-tokens: 10ms",
        r#"{"error":{"message":"Request too large for model `m` in organization `org_x` service tier `on_demand` on tokens per minute (TPM): Limit 6000, Requested 12328","type":"tokens","code":"rate_limit_exceeded"}}"#,
        "unclear",
        &["tokens-minute 0.0"],
    ),
    (
        "groq: the flex tier is full",
        498,
        "",
        r#"{"error":{"message":"Flex tier capacity exceeded","type":"capacity_exceeded"}}"#,
        "overloaded -",
        &[],
    ),
    (
        "mistral: its machines are full",
        429,
        "",
        r#"{"object":"error","message":"Service tier capacity exceeded for this model.","type":"service_tier_capacity_exceeded","param":null,"code":"3505"}"#,
        "overloaded -",
        &[],
    ),
    (
        "cerebras: its queue is full",
        429,
        "",
        r#"{"message":"We're experiencing high traffic right now! Please try again soon.","type":"too_many_requests_error","param":"queue","code":"queue_exceeded"}"#,
        "overloaded -",
        &[],
    ),
    // Wei-Shaw/sub2api#4785.
    (
        "xai: what the request says",
        403,
        "",
        r#"{"code":"permission-denied","error":"Content violates usage guidelines. "}"#,
        "served",
        &[],
    ),
    (
        "openrouter: what the request says",
        403,
        "",
        r#"{"error":{"code":403,"message":"m requires moderation on Anthropic. Your input was flagged.","metadata":{"reasons":["violence"],"provider_name":"Anthropic"}}}"#,
        "served",
        &[],
    ),
    (
        "openai: a LiteLLM proxy says when",
        429,
        "",
        r#"{"error":{"message":"No deployments available for selected model, Try again in 5 seconds. Passed model=m.","type":"None","param":"None","code":"429"}}"#,
        "limited 5",
        &[],
    ),
    // can1357/oh-my-pi#11014; 2026-01-01T00:35:41+00:00 is 08:35:41 there.
    (
        "anthropic: a plan of Z.AI's",
        429,
        "",
        r#"{"type":"error","error":{"type":"rate_limit_error","code":"1308","message":"[1308][Usage limit reached for 5 hour. Your limit will reset at 2026-01-01 08:35:41][2026]"}}"#,
        "limited 2141",
        &[],
    ),
    (
        "anthropic: no money at Z.AI",
        429,
        "",
        r#"{"error":{"code":"1113","message":"Insufficient balance or no resource package. Please recharge."}}"#,
        "capped -",
        &[],
    ),
    (
        "anthropic: Moonshot's limit",
        429,
        "",
        r#"{"error":{"message":"Your account org-x<ak-y> request reached organization max RPM: 20, please try again after 1 seconds","type":"rate_limit_reached_error"}}"#,
        "limited 1",
        &[],
    ),
    (
        "anthropic: Moonshot's engine",
        429,
        "",
        r#"{"error":{"message":"The engine is currently overloaded, please try again later","type":"engine_overloaded_error"}}"#,
        "overloaded -",
        &[],
    ),
    (
        "anthropic: no money at Moonshot",
        403,
        "",
        r#"{"error":{"message":"Your account org-x is not active, organization exceeded current quota, please check your plan and billing details","type":"exceeded_current_quota_error"}}"#,
        "capped -",
        &[],
    ),
    (
        "openai: Alibaba's limit of a minute",
        429,
        "",
        r#"{"error":{"message":"Allocated quota exceeded, please increase your quota limit.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#,
        "limited 60",
        &[],
    ),
    (
        "openai: no money at Alibaba",
        400,
        "",
        r#"{"error":{"message":"Access denied, please make sure your account is in good standing.","type":"Arrearage","param":null,"code":"Arrearage"}}"#,
        "capped -",
        &[],
    ),
    (
        "openai: as an event",
        400,
        "content-type: text/event-stream",
        "event: error\ndata: {\"error\":{\"code\":\"insufficient_quota\"}}\n\n",
        "capped -",
        &[],
    ),
    (
        "azure: in words",
        429,
        "",
        r#"{"error":{"code":"429","message":"Requests have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after 6 seconds."}}"#,
        "limited 6",
        &[],
    ),
    (
        "mistral: minute and month, no resets",
        200,
        "x-ratelimit-limit-req-minute: 60
         x-ratelimit-remaining-req-minute: 59
         x-ratelimit-limit-tokens-minute: 500000
         x-ratelimit-remaining-tokens-minute: 499929
         x-ratelimit-limit-tokens-month: 1000000000
         x-ratelimit-remaining-tokens-month: 100000000
         x-ratelimit-tokens-query-cost: 71",
        "{}",
        "served",
        &[
            "requests-minute 1.7",
            "tokens-minute 0.0",
            "tokens-month 90.0",
        ],
    ),
    (
        "mistral: ten seconds are no reason to leave",
        200,
        "x-ratelimit-limit-req-10-second: 1\nx-ratelimit-remaining-req-10-second: 0",
        "{}",
        "served",
        &[],
    ),
    (
        "mistral: ten seconds are one to wait",
        429,
        "x-ratelimit-limit-req-10-second: 1\nx-ratelimit-remaining-req-10-second: 0",
        r#"{"object":"error","message":"Requests rate limit exceeded","type":"rate_limited","param":null,"code":"1300"}"#,
        "limited -",
        &["requests-10-second 100.0"],
    ),
    (
        "xai: as OpenAI",
        200,
        "x-ratelimit-limit-requests: 480\nx-ratelimit-remaining-requests: 479",
        "{}",
        "served",
        &["requests 0.2"],
    ),
    // i-am-bee/beeai-framework#447, continuedev/continue#10778.
    (
        "xai: unknown token",
        400,
        "",
        r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided: na***ys. You can obtain an API key from https://console.x.ai."}"#,
        "rejected",
        &[],
    ),
    // From a public log of a chat bot.
    (
        "xai: another 400",
        400,
        "",
        r#"{"code":"Client specified an invalid argument","error":"Generated image rejected by content moderation"}"#,
        "unclear",
        &[],
    ),
    // warpdotdev/warp#14863; since 2026 the code reads permission-denied (Anantys-oss/koan#2412).
    (
        "xai: no credits",
        403,
        "",
        r#"{"code":"The caller does not have permission to execute the specified operation","error":"Your team 16f2151a has either used all available credits or reached its monthly spending limit. To continue making API requests, please purchase more credits or raise your spending limit."}"#,
        "capped -",
        &[],
    ),
    // continuedev/continue#10373.
    (
        "xai: no credits, the older status",
        429,
        "",
        r#"{"code":"Some resource has been exhausted","error":"Your team 16f2151a has either used all available credits or reached its monthly spending limit. To continue making API requests, please purchase more credits or raise your spending limit."}"#,
        "capped -",
        &[],
    ),
    // griptape-ai/griptape-nodes-engine#1079, continuedev/continue#12670.
    (
        "xai: no credits yet",
        403,
        "",
        r#"{"code":"The caller does not have permission to execute the specified operation","error":"Your newly created teams doesn't have any credits yet. You can purchase credits on https://console.x.ai/team/16f2151a."}"#,
        "capped -",
        &[],
    ),
    // luxus/pi-xai#10.
    (
        "xai: out of credits",
        403,
        "",
        r#"{"code":"permission-denied","error":"You have run out of credits or need a Grok subscription."}"#,
        "capped -",
        &[],
    ),
    // Made up, with the recorded code.
    (
        "xai: another 403",
        403,
        "",
        r#"{"code":"The caller does not have permission to execute the specified operation","error":"Your team 16f2151a is not allowed to use the model grok-5."}"#,
        "unclear",
        &[],
    ),
    (
        "cerebras: day and minute, float seconds",
        200,
        "x-ratelimit-limit-requests-day: 14400
         x-ratelimit-remaining-requests-day: 144
         x-ratelimit-reset-requests-day: 33011.382867097855
         x-ratelimit-limit-tokens-minute: 60000
         x-ratelimit-remaining-tokens-minute: 59680
         x-ratelimit-reset-tokens-minute: 11.382867097854614",
        "{}",
        "served",
        &["requests-day 99.0", "tokens-minute 0.5"],
    ),
    (
        "together: a second is no reason to leave",
        200,
        "x-ratelimit-limit: 2
         x-ratelimit-remaining: 0
         x-ratelimit-reset: 2
         x-tokenlimit-limit: 3000
         x-tokenlimit-remaining: 0",
        "{}",
        "served",
        &[],
    ),
    (
        "together: a second is one to wait",
        429,
        "x-ratelimit-limit: 2\nx-ratelimit-remaining: 0\nx-ratelimit-reset: 2",
        r#"{"error":{"message":"…","type":"rate_limit","param":null,"code":null}}"#,
        "limited -",
        &["requests-second 100.0"],
    ),
    (
        "fireworks: served beyond the limit",
        200,
        "x-ratelimit-limit-requests: 60
         x-ratelimit-remaining-requests: 54
         x-ratelimit-over-limit: yes
         x-ratelimit-limit-tokens-prompt: 60000
         x-ratelimit-remaining-tokens-prompt: 30000",
        "{}",
        "served",
        &["requests 10.0", "tokens-prompt 50.0"],
    ),
    // pollinations/pollinations#12136.
    (
        "fireworks: suspended account",
        412,
        "",
        r#"{"error":{"message":"Account x is suspended, possibly due to reaching the monthly spending limit or failure to pay past invoices. Please go to https://fireworks.ai/account/billing for more information.","param":null,"code":"PRECONDITION_FAILED","type":"error"},"request_id":"1"}"#,
        "capped -",
        &[],
    ),
    // Its page of error codes has this status for it, too; the words are made up.
    (
        "fireworks: an adapter that does not load",
        412,
        "",
        r#"{"error":{"message":"Failed to load the adapter","param":null,"code":"PRECONDITION_FAILED","type":"error"}}"#,
        "unclear",
        &[],
    ),
    (
        "deepseek: nothing on success",
        200,
        "x-ds-trace-id: 1",
        "\n\n{}",
        "served",
        &[],
    ),
    (
        "deepseek: no balance",
        402,
        "",
        r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","code":"invalid_request_error"}}"#,
        "capped -",
        &[],
    ),
    (
        "deepseek: too many at once",
        429,
        "",
        r#"{"error":{"message":"…"}}"#,
        "limited -",
        &[],
    ),
    ("deepseek: overloaded", 503, "", "", "overloaded -", &[]),
    (
        "openrouter: its own limit in the headers",
        429,
        "x-ratelimit-limit: 50\nx-ratelimit-remaining: 0\nx-ratelimit-reset: 1767312000000",
        r#"{"error":{"message":"Rate limit exceeded: free-models-per-day","code":429}}"#,
        "limited -",
        &["requests 100.0"],
    ),
    (
        "openrouter: its own limit in the body",
        429,
        "",
        r#"{"error":{"message":"Rate limit exceeded: free-models-per-day","code":429,"metadata":{"headers":{"X-RateLimit-Limit":"50","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1767312000000"}}}}"#,
        "limited 86400",
        &[],
    ),
    (
        "openrouter: the limit of a model's provider",
        429,
        "",
        r#"{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"rate-limited upstream","provider_name":"Chutes"}}}"#,
        "overloaded -",
        &[],
    ),
    (
        "openrouter: no credits",
        402,
        "",
        r#"{"error":{"code":402,"message":"Insufficient credits"}}"#,
        "capped -",
        &[],
    ),
    // RooCodeInc/Roo-Code#515, MCPJam/inspector#1287.
    (
        "openrouter: the limit of the key",
        403,
        "",
        r#"{"error":{"message":"Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys","code":403}}"#,
        "capped -",
        &[],
    ),
    (
        "cohere: a trial token",
        200,
        "x-endpoint-monthly-call-limit: 1000\nx-trial-endpoint-call-limit: 20\nx-trial-endpoint-call-remaining: 19",
        "{}",
        "served",
        &["requests-minute 5.0"],
    ),
    (
        "cohere: throughput",
        429,
        "",
        r#"{"message":"You are using a Trial key"}"#,
        "limited -",
        &[],
    ),
    (
        "gemini: the minute",
        429,
        "",
        r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"18.403470473s"}]}}"#,
        "limited 18",
        &[],
    ),
    (
        "gemini: the day",
        429,
        "",
        r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"18s"}]}}"#,
        "limited 28800",
        &[],
    ),
    (
        "gemini: a bad token",
        400,
        "",
        r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com"}]}}"#,
        "rejected",
        &[],
    ),
    // n4ze3m/page-assist#406.
    (
        "gemini: a bad token, in a list",
        400,
        "",
        r#"[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com"}]}}]"#,
        "rejected",
        &[],
    ),
    (
        "gemini: the day, in a list",
        429,
        "",
        r#"[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"18s"}]}}]"#,
        "limited 28800",
        &[],
    ),
    (
        "gemini: overloaded",
        503,
        "",
        r#"{"error":{"code":503,"status":"UNAVAILABLE"}}"#,
        "overloaded -",
        &[],
    ),
    (
        "azure: bare numbers and a renewal period",
        200,
        "x-ratelimit-limit-requests: 500
         x-ratelimit-remaining-requests: 499
         x-ratelimit-renewalperiod-requests: 60
         x-ratelimit-reset-requests: 500
         x-ratelimit-remaining-tokens: 49000
         x-ratelimit-abusepenalty-active: False",
        "{}",
        "served",
        &["requests 0.2"],
    ),
    (
        "azure: nothing left of a limit that is not told",
        429,
        "x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 7\nretry-after-ms: 6500",
        r#"{"error":{"code":"429","message":"…"}}"#,
        "limited 6",
        &["tokens 100.0"],
    ),
    (
        "azure: unknown deployment",
        404,
        "",
        r#"{"error":{"code":"DeploymentNotFound"}}"#,
        "unclear",
        &[],
    ),
    (
        "huggingface: no limit",
        200,
        "x-ratelimit-remaining-requests-minute: 9223372036854767616\nx-ratelimit-remaining-tokens-day: 9223372036854767616",
        "{}",
        "served",
        &[],
    ),
    (
        "huggingface: a backend with the old draft's names",
        200,
        "ratelimit-limit: 400\nratelimit-remaining: 399\nratelimit-reset: 19",
        "{}",
        "served",
        &["requests 0.2"],
    ),
    (
        "huggingface: credits used up",
        402,
        "",
        r#"{"error":"You have exceeded your monthly included credits"}"#,
        "capped -",
        &[],
    ),
    (
        "perplexity: unknown token",
        401,
        "",
        "<html>",
        "rejected",
        &[],
    ),
    (
        "perplexity: no money",
        401,
        "",
        r#"{"error":{"type":"insufficient_quota","code":401}}"#,
        "capped -",
        &[],
    ),
];

#[test]
fn every_cause_ends_in_its_condition() {
    for (case, status, head, body, wanted, windows) in ROWS {
        let (name, _) = case.split_once(": ").unwrap();
        let provider = by_name(name).unwrap_or_else(|| panic!("{case}"));
        let reply = reply(*status, &format!("{DATE}{head}"), body);
        let reading = provider.read(ProbeTarget::Model, &reply, now());
        assert_eq!(outcome(&reading.finding), *wanted, "{case}");
        assert_eq!(percents(&reading.usage), *windows, "{case}");
    }
}

#[test]
fn resets_that_are_told_told_badly_or_not_at_all() {
    let resets = |case: &str| -> Vec<Option<u64>> {
        let row = ROWS.iter().find(|row| row.0 == case).unwrap();
        let (name, _) = case.split_once(": ").unwrap();
        let reply = reply(row.1, &format!("{DATE}{}", row.2), row.3);
        let windows = by_name(name)
            .unwrap()
            .read(ProbeTarget::Model, &reply, now())
            .usage
            .windows;
        let span = |at: std::time::SystemTime| at.duration_since(now()).unwrap().as_secs();
        windows
            .iter()
            .map(|window| window.resets_at.map(span))
            .collect()
    };
    let minute_day = vec![Some(179), Some(0)];
    assert_eq!(
        resets("groq: a day of requests, a minute of tokens"),
        minute_day
    );
    let months = vec![Some(60), Some(60), Some(3600)];
    assert_eq!(resets("mistral: minute and month, no resets"), months);
    assert_eq!(
        resets("cerebras: day and minute, float seconds"),
        [Some(33011), Some(11)]
    );
    assert_eq!(
        resets("azure: bare numbers and a renewal period"),
        [Some(60)]
    );
    assert_eq!(
        resets("openrouter: its own limit in the headers"),
        [Some(86_400)]
    );
    assert_eq!(resets("together: a second is one to wait"), [Some(2)]);
}

#[test]
fn no_row_of_the_facts_is_left_out() {
    for provider in super::PROVIDERS {
        let of_it = |row: &&Row| row.0.starts_with(&format!("{}: ", provider.name));
        assert!(ROWS.iter().any(|row| of_it(&row)), "{}", provider.name);
    }
}
