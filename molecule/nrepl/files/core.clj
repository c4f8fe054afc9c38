(ns bank.core
  "Accounts whose balances always have the same sum. Every transaction writes its number into all of them."
  (:require [datalevin.core :as d]))

(def accounts 100)

(def conn
  (d/get-conn "/var/lib/application/bank" {:name {:db/valueType :db.type/string :db/unique :db.unique/identity}}))

(defn- title [number] (str "account " number " \"😀\""))

(defn- transfer! [turn]
  (let [database @conn
        one (rand-int accounts)
        other (mod (inc one) accounts)
        balance (fn [number] (:balance (d/entity database [:name (title number)])))]
    (d/transact! conn
      (into [{:name (title one) :balance (dec (balance one))} {:name (title other) :balance (inc (balance other))}]
            (map (fn [number] {:name (title number) :turn turn}))
            (range accounts)))))

(defn export!
  "Writes the accounts to a file, as they were at one moment."
  [path]
  (println "exporting to" path)
  (let [datoms (d/datoms @conn :eav)]
    (spit path (pr-str (mapv (fn [datom] [(:e datom) (:a datom) (:v datom)]) datoms)))))

(defn -main []
  (d/transact! conn (mapv (fn [number] {:name (title number) :balance 1000 :turn 0}) (range accounts)))
  (doto (Thread. (fn [] (doseq [turn (rest (range))] (transfer! turn) (Thread/sleep 5)))) (.setDaemon true) .start))
