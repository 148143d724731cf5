// The official Node client against the gateway. Prints what it saw as one JSON object; `test_node.py` holds it against the ledger.
// From the environment: OPENAI_BASE_URL, OPENAI_API_KEY (a team's), CHATTY_KEY (of a team with 10 tokens a millisecond), POOR_KEY (of one
// that may send one request a day).
import OpenAI from "openai";

const messages = [{ role: "user", content: "What is on my bill?" }];
const statuses = [];
const watched = async (url, init) => {
  const answer = await fetch(url, init);
  statuses.push(answer.status);
  return answer;
};
const client = new OpenAI({ maxRetries: 0 });
const seen = {};

const chat = await client.chat.completions.create({ model: "gpt-4o", messages }).withResponse();
seen.chat = {
  usage: chat.data.usage,
  text: chat.data.choices[0].message.content,
  request_id: chat.request_id,
  exchange_id: chat.response.headers.get("x-gateway-request-id"),
  limit: chat.response.headers.get("x-ratelimit-limit-requests"),
  organization: chat.response.headers.get("openai-organization"),
};

async function streamed(options) {
  const chunks = [];
  for await (const chunk of await client.chat.completions.create({ model: "gpt-4o", messages, stream: true, ...options })) chunks.push(chunk);
  return {
    text: chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""),
    usages: chunks.filter((chunk) => chunk.usage).map((chunk) => chunk.usage),
  };
}
seen.stream = await streamed({});
seen.stream_with_usage = await streamed({ stream_options: { include_usage: true } });

const response = await client.responses.create({ model: "gpt-4o", input: "What is on my bill?" });
seen.response = { id: response.id, usage: response.usage, text: response.output_text };
const events = [];
for await (const event of await client.responses.create({ model: "gpt-4o", input: "Go on.", previous_response_id: response.id, stream: true }))
  events.push(event);
seen.response_stream = { last: events.at(-1).type, usage: events.at(-1).response.usage, events: events.length };
seen.retrieved = (await client.responses.retrieve(response.id)).id;
await client.responses.delete(response.id);

const vectors = await client.embeddings.create({ model: "text-embedding-3-small", input: ["What is", "on my bill?"] });
seen.embeddings = { usage: vectors.usage, lengths: vectors.data.map((each) => each.embedding.length) };

async function refusal(call) {
  try {
    await call();
    return null;
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code };
  }
}
seen.unknown_model = await refusal(() => client.chat.completions.create({ model: "gpt-9", messages }));
seen.wrong_key = await refusal(() => new OpenAI({ apiKey: "gk-nobody", maxRetries: 0 }).models.list());

const chatty = new OpenAI({ apiKey: process.env.CHATTY_KEY, maxRetries: 2, fetch: watched });
const headers = { "X-Simulator-Usage": "input_text=602000;output_text=10" };
await chatty.chat.completions.create({ model: "gpt-4o", messages }, { headers });
await chatty.chat.completions.create({ model: "gpt-4o", messages });
seen.waited = statuses.splice(0);

const poor = new OpenAI({ apiKey: process.env.POOR_KEY, maxRetries: 2, fetch: watched });
await poor.chat.completions.create({ model: "gpt-4o", messages });
seen.hopeless = await refusal(() => poor.chat.completions.create({ model: "gpt-4o", messages }));
seen.hopeless_statuses = statuses.splice(0);

console.log(JSON.stringify(seen));
