"use strict";
/* Rows as objects, and the decisions about them: in memory, in localStorage, as CSV. */

const DECISIONS = ["accept", "reject", "unsure"];
const WORDS = { accept: "accepted", reject: "rejected", unsure: "unsure" };

/* A key may hold any character but this one, which no file name can. */
const idOf = (shard, key) => `${shard}\u0000${key}`;

const REPORT = window.REPORT;
const ROWS = REPORT.rows.map((row, place) => ({
  place,
  shard: REPORT.shards[row[0]],
  key: row[1],
  width: row[2],
  height: row[3],
  quality: row[4],
  area: row[5],
  separation: row[6],
  refined_separation: row[7],
  presence: row[8],
  flags: row[9].map((flag) => REPORT.flags[flag]),
  picture: row[10],
  layers: row[11],
  step: row[12],
  found: row[1].toLowerCase(),
  id: idOf(REPORT.shards[row[0]], row[1]),
}));

class Review {
  constructor(name) {
    this.name = name;
    this.decisions = new Map();
    this.history = [];
    this.listeners = [];
    this.problem = "";
    this.load();
  }

  of(row) {
    return this.decisions.get(row.id) || "";
  }

  decide(row, decision) {
    this.history.push({ row, before: this.of(row) });
    this.set(row.shard, row.key, decision);
    this.changed();
  }

  /* The row whose latest decision is taken back, if there is one. */
  undo() {
    const last = this.history.pop();
    if (!last) return null;
    this.set(last.row.shard, last.row.key, last.before);
    this.changed();
    return last.row;
  }

  set(shard, key, decision) {
    if (decision) this.decisions.set(idOf(shard, key), decision);
    else this.decisions.delete(idOf(shard, key));
  }

  counts() {
    const counts = { accept: 0, reject: 0, unsure: 0 };
    for (const row of ROWS) {
      const decision = this.of(row);
      if (decision) counts[decision] += 1;
    }
    return counts;
  }

  changed() {
    try {
      localStorage.setItem(this.name, JSON.stringify([...this.decisions]));
      this.problem = "";
    } catch (error) {
      this.problem = "This browser keeps nothing for this page: save review.csv before you close it.";
    }
    this.listeners.forEach((listener) => listener());
  }

  load() {
    try {
      for (const [id, decision] of JSON.parse(localStorage.getItem(this.name) || "[]")) {
        if (DECISIONS.includes(decision)) this.decisions.set(String(id), decision);
      }
    } catch (error) {
      this.problem = "What was decided in this browser before cannot be read.";
    }
  }

  toCsv() {
    const lines = ["shard,key,decision"];
    for (const [id, decision] of this.decisions) {
      const cut = id.indexOf("\u0000");
      lines.push([id.slice(0, cut), id.slice(cut + 1), decision].map(quoteCsv).join(","));
    }
    return lines.join("\n") + "\n";
  }

  /* Takes over the decisions of a file; returns their number, or throws with a sentence. */
  fromCsv(text) {
    const [header, ...lines] = parseCsv(text.replace(/^\ufeff/, ""));
    const columns = ["shard", "key", "decision"].map((name) => (header || []).indexOf(name));
    if (columns.includes(-1)) throw new Error("Its first line must be shard,key,decision.");
    const found = lines.map((line) => columns.map((column) => line[column]));
    const wrong = found.find((line) => !DECISIONS.includes(line[2]));
    if (wrong) throw new Error(`It decides ${JSON.stringify(wrong[2] || "")}; it must be ${DECISIONS.join(", ")}.`);
    found.forEach(([shard, key, decision]) => this.set(shard, key, decision));
    this.history = [];
    this.changed();
    return found.length;
  }
}

function quoteCsv(text) {
  return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function parseCsv(text) {
  const lines = [];
  let line = [];
  let field = "";
  let quoted = false;
  for (let i = 0; i < text.length; i += 1) {
    const c = text[i];
    if (quoted) {
      if (c !== '"') field += c;
      else if (text[i + 1] === '"') field += text[(i += 1)];
      else quoted = false;
    } else if (c === '"') quoted = true;
    else if (c === ",") field = line.push(field) && "";
    else if (c === "\n" || c === "\r") {
      if (c === "\r" && text[i + 1] === "\n") i += 1;
      line.push(field);
      if (line.length > 1 || field) lines.push(line);
      [line, field] = [[], ""];
    } else field += c;
  }
  line.push(field);
  if (line.length > 1 || field) lines.push(line);
  return lines;
}
